#pragma once
// Internal to the layout planner: what a piece of the model takes, in time and memory, for any number of layers. It is
// read off the differentiated graphs of a piece with one layer and of one with two; each further layer adds what the
// second one did.

#include <map>
#include <tuple>

#include "parallel/layout.hpp"
#include "runtime/plan/recompute_trade.hpp"

namespace plimsoll {

// Sizes without padding, so that they bound a plan from below.
struct PieceProfile {
  NodeTimes times;                 // of a micro-batch
  std::int64_t kept_bytes = 0;     // made in forward, read in backward: of one micro-batch in flight
  std::int64_t outside_bytes = 0;  // of that, outside of the layers
  std::int64_t held_bytes = 0;     // the same of what is there between input and weight gradients that are two actions
  std::int64_t staging_bytes = 0;  // tokens, targets, messages
  std::int64_t embedding_elements = 0, layer_elements = 0, head_elements = 0;  // parameters; of all layers
  std::int64_t elements() const { return embedding_elements + layer_elements + head_elements; }
};

struct PieceKind {
  int tensor = 1;
  bool sequence_parallel = false;
  std::int64_t micro_batch = 1;
  bool pipelined = false, embedding = true, head = true;
  auto operator<=>(const PieceKind&) const = default;
};
PieceKind piece_kind(const Layout& layout, bool embedding, bool head);

class PieceProfiles {
 public:
  PieceProfiles(const LayoutProblem& problem, const CostModel& costs) : problem_(problem), costs_(costs) {}
  const LayoutProblem& problem() const { return problem_; }

  PieceProfile of(const PieceKind& kind, std::int64_t layers);
  PieceProfile of(const Layout& layout, int stage, int chunk) {
    return of(kind(layout, stage, chunk), layers(layout, stage, chunk));
  }
  // What recomputation costs in the layers of a piece, all its micro-batches in flight. Valid as long as the profiles.
  struct Trades {
    std::vector<TradingLayers> layers;
    // Of the backward of a layer, whatever is kept: gradients, and what one of its nodes reads of forward.
    std::int64_t backward_bytes = 0;
  };
  Trades trades(const Layout& layout, int stage, int chunk);

  // Of the layout, with as many micro-batches as it takes to know how it goes on.
  const Schedule& schedule(const Layout& layout);
  // Micro-batches of a piece between their forward and their backward.
  int in_flight(const Layout& layout, int stage, int chunk);
  std::int64_t layers(const Layout& layout, int stage, int chunk) const;

  // fp8_size_fault() of a layer.
  std::optional<std::string> fp8_fault(const Layout& layout);

  // Model FLOPs of forward and backward of one sequence, without recomputation.
  double model_flops_per_sequence();

 private:
  struct Pair {
    PieceProfile one, two;
  };
  PieceKind kind(const Layout& layout, int stage, int chunk) const;
  Graph differentiated(const PieceKind& kind, std::int64_t layers) const;
  PieceProfile measure(const PieceKind& kind, std::int64_t layers) const;

  const LayoutProblem& problem_;
  const CostModel& costs_;
  std::map<PieceKind, Pair> known_;
  std::map<std::tuple<ScheduleKind, int, std::int64_t, int>, Schedule> schedules_;
  struct LayerTrades {
    std::vector<RecomputeTrade> layers;
    std::int64_t backward_bytes = 0;
  };
  std::map<std::pair<PieceKind, std::int64_t>, LayerTrades> trades_;  // by kind and layers, at most three
  std::map<PieceKind, std::optional<std::string>> fp8_faults_;        // of layers alone
  double model_flops_ = 0;
};

}  // namespace plimsoll
