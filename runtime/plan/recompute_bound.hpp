#pragma once
// What a training program cannot run without, whatever it makes again or sends to host memory: a lower bound of its
// step region under every recomputation (runtime/graph/recompute.hpp, runtime/graph/offload.hpp).
//
// Every node of forward, backward and update runs in all of them and finds its inputs, outputs and workspace in memory;
// an output may lie over an input that nothing in forward reads later. Values that no layer makes in forward (the
// embedding, what a stage receives, gradients) are never made again, so they are there from their first use to their
// last. In a pipeline, what crosses from forward to backward is there once for each slot. Collectives count nowhere:
// how much they gather at once is another choice.

#include "runtime/plan/memory.hpp"

namespace plimsoll {

// `program`: of add_backward() with everything kept, before share_forward_memory().
std::int64_t unavoidable_bytes(const Program& program, int threads);

}  // namespace plimsoll
