#pragma once
// How long a communication node or a copy may still be under way, in the order of the nodes: what it touches must stay
// until then, or a compute node that is given its bytes waits for it.

#include <memory>
#include <vector>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

// By node: the last node beside which it may run. Its own index for compute nodes; for the others the one before a
// compute node that needs its result (or overwrites what it reads), at most the one before the next node of the same op
// and axis that follows compute: so one reduction is under way while the gradients of the next are made, and one copy
// to the host while the next value is, and not all of them. Never beyond its section, chunk and half of backward.
std::vector<std::size_t> in_flight_until(const Graph& graph);
// Of a node of another stream than compute: the same if no compute node needed its result.
std::size_t in_flight_at_most(const Graph& graph, std::size_t node);

// When copies to and from host memory, and compute beside them, find their memory on the device free, where the nodes
// of a graph are played in order. The memory plan promises no more than this: what leaves has its bytes as long as
// in_flight_until() says, and then compute may be given them; what comes back may be given those of the compute node
// right before it. Places may happen to be kinder. Of graphs without copies it says nothing.
class CopyMemory {
 public:
  explicit CopyMemory(const Graph& graph);

  // Not before then may the node begin; 0: it does not matter.
  double free_at(std::size_t node);
  // Told of every node that is played.
  void ends(std::size_t node, double end_s);

 private:
  struct Leaving {
    std::size_t until;
    double end_s;
  };
  const Graph& graph_;
  std::shared_ptr<const std::vector<std::size_t>> until_;  // null: no copies; the same for all copies of this
  std::vector<Leaving> leaving_;                           // what compute has not waited for; both rise
  double computed_ = 0;                                    // when the last compute node ends
};

}  // namespace plimsoll
