#pragma once
// The units that ZeRO divides, as the passes of parallel/data see them: what is communicated of several that lie side
// by side, and the sums of their gradients.

#include "parallel/data.hpp"
#include "parallel/nodes.hpp"

namespace plimsoll {

// Units [first, last] of the layout, which lie side by side.
struct UnitRange {
  std::size_t first, last;
  bool one() const { return first == last; }
};
std::string units_name(const FlatLayout& layout, const UnitRange& units);
int layer_of(const FlatLayout& layout, const UnitRange& units);  // -1: of no layer in particular
std::int64_t elements_of(const FlatLayout& layout, const UnitRange& units);
std::vector<JoinedPart> parts_of(const FlatLayout& layout, const UnitRange& units);
// The shards of a unit, for the collectives between them and the whole.
DimAttrs over_shards(const DataParallel& data, const Unit& unit);

// Elements [first, first + count) of a flat value, a new one.
ValueId range_of(Graph& graph, ValueId flat, std::int64_t first, std::int64_t count, std::string name);
// Gives a value its place in a flat one, from element `first` on.
void lay_over(Graph& graph, ValueId value, ValueId flat, std::int64_t first);
// This rank's shards of units in a flat buffer (of Graph::named) that holds nothing else, one after another.
ValueId shards_of(Graph& graph, const FlatLayout& layout, std::string_view buffer, const UnitRange& units,
                  int shard_rank);

// Do two nodes run in the same action of a pipeline's schedule, or in the same section where there is none?
bool run_together(const Graph& graph, std::size_t a, std::size_t b);

// Sums x over an axis in the last micro-batch. `ranges`: of x; none: all of it.
Node all_reduce(Graph& graph, const char* axis, int ranks, ValueId x, std::int64_t scratch_bytes, std::string label,
                std::vector<ElementRange> ranges = {});

// gradient_items() with ZeRO.
std::vector<GradientRange> unit_items(const Graph& graph, const FlatLayout& layout, int zero);

// With ZeRO: gives gradients their places, in the flat buffer `flat` or from ZeRO-2 on in memory of their own, and sums
// those of each bucket into this rank's shards.
void place_unit_gradients(Graph& graph, const FlatLayout& layout, const DataParallel& data, ValueId flat,
                          std::int64_t scratch_bytes, Inserts& inserts);

}  // namespace plimsoll
