#pragma once
// Reverse-mode differentiation of a forward graph, from the op declarations alone.

#include "runtime/graph/graph.hpp"

namespace plimsoll {

struct BackwardOptions {
  // What a WeightGrad node reads stays unchanged to the end of backward, so that these nodes may run at any later time.
  // Costs memory. With or without `weight_gradients_last`, the same arithmetic.
  bool keep_for_weight_gradients = false;
  bool weight_gradients_last = false;  // and they do: behind all others, as Node::late; of one chunk only
};

// Appends the backward nodes to a graph that ends in a terminal op (a loss), or is a piece of a pipeline that ends in
// PieceEnds::output; of several chunks, the last comes first. The forward node of the terminal op is removed: its
// InputGrad makes loss and gradients together. Gradients of parameters become persistent values named
// "grad.<parameter>", added to from the second micro-batch on; other gradients share memory where the declarations
// allow it. The gradients of a piece's ends are left in Graph::pieces.
void add_backward(Graph& graph, const BackwardOptions& options = {});

}  // namespace plimsoll
