#pragma once
// The collectives of split linears beside their products (Wang et al. 2023, "Overlap communication with dependent
// computation via decomposition"; Jangda et al. 2022, CoCoNet): both are cut into chunks of rows, and the collective of
// a chunk is under way while the product of the next one runs.

#include <optional>
#include <string>
#include <vector>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

// After split_over_tensor() and, of a training program, add_backward(). Per linear
//   a product before a sum over ranks (forward: row-parallel; input gradient: column-parallel):  P0 C0 P1 C1 … Pk Ck
//   a gather before a product (sequence parallelism):                                            C0 C1 P0 C2 P1 … Ck Pk
// The sum also moves ahead of the weight gradient, which does not need it; so does the one of `chunks` 1. What is sent
// and what is added to what stays the same. A chunk is a range of rows, or, where the collective runs along the tokens
// of each sequence, of sequences; Error(Internal) when these do not divide by `chunks`. Linears in fp8 are not cut.
void overlap_linears(Graph& graph, int chunks);

// A linear that can be cut and the collective that overlap_linears() runs beside it: nodes of the graph, before that.
struct SplitLinear {
  std::size_t product, collective;
};
std::vector<SplitLinear> split_linears(const Graph& graph);

// Why the linears of [micro_batch, sequence] tokens cannot be cut into so many chunks; nullopt when they can.
std::optional<std::string> tensor_chunks_fault(std::int64_t micro_batch, std::int64_t sequence, bool sequence_parallel,
                                               std::int64_t chunks);

}  // namespace plimsoll
