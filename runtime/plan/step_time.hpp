#pragma once
// How long a step of a rank takes, by playing its program on a clock: its streams, all
// micro-batches, then the update. The order and the waits are those of the executor.

#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "runtime/plan/cost.hpp"
#include "runtime/plan/in_flight.hpp"
#include "runtime/plan/segments.hpp"
#include "runtime/plan/simulate.hpp"

namespace plimsoll {

// Ranks between neighbours, by mesh axis.
using AxisStrides = std::function<int(std::string_view axis)>;

class StepClock {
 public:
  // Asks `costs` for every node once, in order.
  StepClock(const Graph& graph, const CostModel& costs, const AxisStrides& strides);

  // Seconds of a whole step of one rank without a pipeline.
  double step_seconds(std::int64_t micro_batches) const;
  // Forward and backward of each micro-batch in it, in slot 0; what is left of the step is the update.
  std::vector<TimedAction> actions(std::int64_t micro_batches) const;
  // Of a piece of a pipeline, one micro-batch; backward in its halves, of which the second is what may run later.
  struct Piece {
    double forward_s = 0, first_half_s = 0, second_half_s = 0;
    double product_s = 0;  // of forward: what makes the output, where that is cut (Graph::message_parts)
  };
  Piece piece_seconds(int chunk, Variant variant) const;
  double update_seconds() const;

  // Sums over nodes, no matter when they run: kernels of a micro-batch in forward and in backward (with what
  // collectives within them take), kernels of the update.
  struct Work {
    double forward_s = 0, backward_s = 0, update_s = 0;
    double recompute_s = 0;                      // of backward_s
    std::map<std::string, double> collective_s;  // on communication streams, in a step; by axis
  };
  Work work(std::int64_t micro_batches) const;

 private:
  enum class Half : std::uint8_t { Both, First, Second };
  // Streams, and memory by segment: when its last writer ends, and the last node that touches it.
  struct State {
    std::array<double, kStreamKinds> stream{};
    std::vector<double> written, used;
    std::array<double, kStreamKinds> slows{};  // of compute, the stream's last collective takes this share
    double now() const { return *std::max_element(stream.begin(), stream.end()); }
  };
  State start() const;
  void play(State& state, Graph::Section section, Variant variant, int chunk, Half half) const;
  void join(State& state) const;
  double play_step(std::int64_t micro_batches, std::vector<TimedAction>* actions) const;

  const Graph& graph_;
  MemorySegments segments_;
  CopyMemory memory_;
  std::vector<double> own_, wire_;  // seconds, by node
  std::vector<double> slows_;       // of compute beside it, the share that the node takes
  std::vector<std::string> axis_;
  bool joins_ = false;  // streams wait for each other where a section ends
};

}  // namespace plimsoll
