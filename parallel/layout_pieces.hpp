#pragma once
// Internal to the layout planner: what a piece of the model takes, in time and memory, for any number of layers. It is
// read off the differentiated graphs of a piece with one layer and of one with two; each further layer adds what the
// second one did.

#include <map>
#include <tuple>

#include "parallel/layout.hpp"

namespace plimsoll {

// Sizes without padding, so that they bound a plan from below.
struct PieceProfile {
  NodeTimes times;                 // of a micro-batch
  std::int64_t kept_bytes = 0;     // made in forward, read in backward: of one micro-batch in flight
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

class PieceProfiles {
 public:
  PieceProfiles(const LayoutProblem& problem, const CostModel& costs) : problem_(problem), costs_(costs) {}
  PieceProfile of(const PieceKind& kind, std::int64_t layers);
  // Model FLOPs of forward and backward of one sequence, without recomputation.
  double model_flops_per_sequence();

 private:
  struct Pair {
    PieceProfile one, two;
  };
  PieceProfile measure(const PieceKind& kind, std::int64_t layers) const;

  const LayoutProblem& problem_;
  const CostModel& costs_;
  std::map<PieceKind, Pair> known_;
  double model_flops_ = 0;
};

}  // namespace plimsoll
