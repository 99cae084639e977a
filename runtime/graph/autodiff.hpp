#pragma once
// Reverse-mode differentiation of a forward graph, from the op declarations alone.

#include "runtime/graph/graph.hpp"

namespace plimsoll {

// Appends the backward nodes to a graph whose last node is a terminal op (a loss). The forward node of the terminal op
// is removed: its InputGrad makes loss and gradients together. Gradients of parameters become persistent values named
// "grad.<parameter>", added to from the second micro-batch on; other gradients share memory where the declarations
// allow it.
void add_backward(Graph& graph);

}  // namespace plimsoll
