#include "runtime/plan/stages.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

using Cut = std::vector<int>;

struct Quality {
  double most, squares;
};

Quality quality(const std::vector<double>& costs, double first, double last, const Cut& cut) {
  Quality q{0, 0};
  for (std::size_t k = 0; k < cut.size(); ++k) {
    const int end = k + 1 < cut.size() ? cut[k + 1] : static_cast<int>(costs.size());
    double cost = std::accumulate(costs.begin() + cut[k], costs.begin() + end, 0.0);
    if (k == 0) cost += first;
    if (k + 1 == cut.size()) cost += last;
    q.most = std::max(q.most, cost);
    q.squares += cost * cost;
  }
  return q;
}

// The best of all cuts, by trying them.
Quality brute_force(const std::vector<double>& costs, double first, double last, int pieces) {
  Quality best{std::numeric_limits<double>::infinity(), 0};
  Cut cut{0};
  const std::function<void()> extend = [&] {
    if (static_cast<int>(cut.size()) == pieces) {
      const Quality q = quality(costs, first, last, cut);
      if (q.most < best.most || (q.most == best.most && q.squares < best.squares)) best = q;
      return;
    }
    for (int next = cut.back() + 1; next < static_cast<int>(costs.size()); ++next) {
      cut.push_back(next);
      extend();
      cut.pop_back();
    }
  };
  extend();
  return best;
}

std::string refusal(const std::function<void()>& call, ErrorKind kind = ErrorKind::Config) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind);
    return e.what();
  }
  return "accepted";
}

TEST(Stages, EqualLayersAreSharedEvenly) {
  const std::vector<double> costs(12, 1.0);
  EXPECT_EQ(cut_layers(costs, 0, 0, 1), (Cut{0}));
  EXPECT_EQ(cut_layers(costs, 0, 0, 4), (Cut{0, 3, 6, 9}));
  EXPECT_EQ(quality(costs, 0, 0, cut_layers(costs, 0, 0, 5)).squares, 3 * 4 + 2 * 9);  // not 3 3 3 2 1
  EXPECT_EQ(cut_layers(costs, 0, 0, 12), (Cut{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
}

TEST(Stages, HeadAndEmbeddingTakeLayersOffTheirPieces) {
  const std::vector<double> costs(12, 1.0);
  EXPECT_EQ(cut_layers(costs, 0, 3, 3), (Cut{0, 5, 10}));
  EXPECT_EQ(cut_layers(costs, 2, 2, 2), (Cut{0, 6}));
  EXPECT_EQ(cut_layers(costs, 100, 0, 3), (Cut{0, 1, 6}));
}

TEST(Stages, EqualsBruteForce) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    std::vector<double> costs(1 + random() % 9);
    for (double& c : costs) c = static_cast<double>(random() % 20);  // whole numbers: sums are exact
    const double first = static_cast<double>(random() % 30);
    const double last = static_cast<double>(random() % 30);
    const int pieces = 1 + static_cast<int>(random() % costs.size());
    const Cut cut = cut_layers(costs, first, last, pieces);
    ASSERT_EQ(cut.size(), static_cast<std::size_t>(pieces));
    ASSERT_EQ(cut[0], 0);
    ASSERT_EQ(std::adjacent_find(cut.begin(), cut.end(), std::greater_equal<>()), cut.end());
    const Quality found = quality(costs, first, last, cut);
    const Quality best = brute_force(costs, first, last, pieces);
    ASSERT_EQ(found.most, best.most) << "round " << round;
    ASSERT_EQ(found.squares, best.squares) << "round " << round;
  }
}

TEST(Stages, CutsByList) {
  const std::vector<std::int64_t> list{3, 4, 4, 1};
  EXPECT_EQ(cut_layers_as_listed(list, 12, 4), (Cut{0, 3, 7, 11}));
}

TEST(Stages, RefusesListsThatDoNotFit) {
  const auto listed = [](std::vector<std::int64_t> list, int layers, int pieces) {
    return refusal([&] { cut_layers_as_listed(list, layers, pieces); });
  };
  EXPECT_EQ(listed({6, 6}, 12, 3), "layers per piece [6, 6]: 2 numbers for 3 pieces (stages times chunks per stage)");
  EXPECT_EQ(listed({6, 5}, 12, 2), "layers per piece [6, 5]: 11 layers, where the model has 12");
  EXPECT_EQ(listed({6, 7}, 12, 2), "layers per piece [6, 7]: more than the 12 layers of the model");
  EXPECT_EQ(listed({12, 0}, 12, 2), "layers per piece [12, 0]: each piece needs at least one layer, not 0");
  EXPECT_EQ(listed({13, -1}, 12, 2), "layers per piece [13, -1]: more than the 12 layers of the model");
  EXPECT_EQ(listed({std::numeric_limits<std::int64_t>::max(), 2}, 12, 2),
            "layers per piece [9223372036854775807, 2]: more than the 12 layers of the model");
}

TEST(Stages, RefusesWhatCannotBeCut) {
  const std::vector<double> costs(3, 1.0);
  EXPECT_EQ(refusal([&] { cut_layers(costs, 0, 0, 4); }),
            "3 layers cannot be cut into 4 pieces (stages times chunks per stage): each needs at least one");
  EXPECT_EQ(refusal([&] { cut_layers(costs, 0, 0, 0); }), "a pipeline has at least one piece, not 0");
  EXPECT_EQ(refusal([&] { cut_layers(costs, -1, 0, 2); }, ErrorKind::Internal),
            "cut_layers: a cost is negative or not finite");
}

}  // namespace
}  // namespace plimsoll
