#pragma once
// The update of fp8 scales at the end of a training graph (runtime/ops/fp8.hpp).

#include <span>

#include "optim/update.hpp"

namespace plimsoll {

// Scales and maximums of all fp8 linears of a graph, and the histories of the maximums: the linears in the order of
// fp8_linears().
inline constexpr std::string_view kFp8Scaling = "fp8.scaling", kFp8HistoryName = "fp8.history";

// The fp8 linear that a row of these buffers is of: the `index`-th of its layer.
struct Fp8Linear {
  int layer = 0, index = 0;
  ValueId scaling = kNoValue;
};
// In forward order.
std::vector<Fp8Linear> fp8_linears(const Graph& graph);

// Why a GPU does not take the sizes of an fp8 linear of a graph, as the library multiplies them; nullopt: it does.
std::optional<std::string> fp8_size_fault(const Graph& graph);

// Lays the `scaling` of every fp8 linear over one buffer and appends to the update section: the maximums over the ranks
// of `axes`, so that all of them quantise alike, then the scales of the next step. Nothing in a graph without fp8.
void add_fp8_update(Graph& graph, std::span<const NormAxis> axes, std::int64_t scratch_bytes);

}  // namespace plimsoll
