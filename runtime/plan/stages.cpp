#include "runtime/plan/stages.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Cut {
  double value;
  std::vector<int> first_layer;
};

class Cutter {
 public:
  Cutter(std::span<const double> layer_costs, double first_cost, double last_cost, int pieces)
      : layers_(static_cast<int>(layer_costs.size())),
        pieces_(pieces),
        first_cost_(first_cost),
        last_cost_(last_cost),
        prefix_(layers_ + 1, 0) {
    for (int i = 0; i < layers_; ++i) prefix_[i + 1] = prefix_[i] + layer_costs[i];
  }

  // Of piece `k` with the layers [begin, end).
  double cost(int k, int begin, int end) const {
    return prefix_[end] - prefix_[begin] + (k == 0 ? first_cost_ : 0) + (k == pieces_ - 1 ? last_cost_ : 0);
  }

  // best[k][end] = min over begin of combine(best[k - 1][begin], cost(k, begin, end)), first begin among equals.
  Cut best(const std::function<double(double so_far, double cost)>& combine) const {
    std::vector best(pieces_ + 1, std::vector<double>(layers_ + 1, kInfinity));
    std::vector from(pieces_ + 1, std::vector<int>(layers_ + 1, -1));
    best[0][0] = 0;
    for (int k = 0; k < pieces_; ++k) {
      for (int end = k + 1; end <= layers_ - (pieces_ - 1 - k); ++end) {
        for (int begin = k; begin < end; ++begin) {
          if (best[k][begin] == kInfinity) continue;
          const double value = combine(best[k][begin], cost(k, begin, end));
          if (value >= best[k + 1][end]) continue;
          best[k + 1][end] = value;
          from[k + 1][end] = begin;
        }
      }
    }
    Cut cut{best[pieces_][layers_], std::vector<int>(pieces_)};
    for (int k = pieces_, end = layers_; k > 0; --k) end = cut.first_layer[k - 1] = from[k][end];
    return cut;
  }

 private:
  int layers_, pieces_;
  double first_cost_, last_cost_;
  std::vector<double> prefix_;
};

void check_pieces(int layers, int pieces) {
  require(pieces >= 1, ErrorKind::Config, "a pipeline has at least one piece, not {}", pieces);
  require(pieces <= layers, ErrorKind::Config,
          "{} layers cannot be cut into {} pieces (stages times chunks per stage): each needs at least one", layers,
          pieces);
}

}  // namespace

std::vector<int> cut_layers(std::span<const double> layer_costs, double first_cost, double last_cost, int pieces) {
  check_pieces(static_cast<int>(layer_costs.size()), pieces);
  const auto valid = [](double cost) { return std::isfinite(cost) && cost >= 0; };
  require(std::all_of(layer_costs.begin(), layer_costs.end(), valid) && valid(first_cost) && valid(last_cost),
          ErrorKind::Internal, "cut_layers: a cost is negative or not finite");
  const Cutter cutter(layer_costs, first_cost, last_cost, pieces);
  const double most = cutter.best([](double so_far, double cost) { return std::max(so_far, cost); }).value;
  const auto squares = [most](double so_far, double cost) { return cost > most ? kInfinity : so_far + cost * cost; };
  return cutter.best(squares).first_layer;
}

std::vector<int> cut_layers_as_listed(std::span<const std::int64_t> layers_per_piece, int layers, int pieces) {
  check_pieces(layers, pieces);
  const std::string list = fmt::format("[{}]", fmt::join(layers_per_piece, ", "));
  require(static_cast<int>(layers_per_piece.size()) == pieces, ErrorKind::Config,
          "layers per piece {}: {} numbers for {} pieces (stages times chunks per stage)", list,
          layers_per_piece.size(), pieces);
  std::vector<int> first_layer;
  std::int64_t sum = 0;
  for (const std::int64_t count : layers_per_piece) {
    require(count >= 1, ErrorKind::Config, "layers per piece {}: each piece needs at least one layer, not {}", list,
            count);
    require(count <= layers - sum, ErrorKind::Config, "layers per piece {}: more than the {} layers of the model", list,
            layers);
    first_layer.push_back(static_cast<int>(sum));
    sum += count;
  }
  require(sum == layers, ErrorKind::Config, "layers per piece {}: {} layers, where the model has {}", list, sum,
          layers);
  return first_layer;
}

}  // namespace plimsoll
