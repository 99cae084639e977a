#pragma once
// What a training program cannot run without, whatever it makes again or sends to host memory: a lower bound of its
// step region under every recomputation (runtime/graph/recompute.hpp, runtime/graph/offload.hpp).
//
// Every node of forward, backward and update runs in all of them and finds its inputs, outputs and workspace in memory;
// an output may lie over an input that nothing in forward reads later. Values that no layer makes in forward (the
// embedding, what a stage receives, gradients) are never made again, so they are there from their first use to their
// last. In a pipeline, what crosses from forward to backward is there once for each slot. Collectives count nowhere:
// how much they gather at once is another choice. Where MLPs may run in blocks of rows (runtime/graph/row_splits.hpp),
// what exists for one block at a time counts nowhere either: blocks may be as small as a row.

#include "runtime/plan/memory.hpp"

namespace plimsoll {

// `program`: of add_backward() with everything kept, before share_forward_memory(). `row_splits`: may MLPs run so?
std::int64_t unavoidable_bytes(const Program& program, int threads, bool row_splits);

}  // namespace plimsoll
