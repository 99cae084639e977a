#include "launch/size_inputs.hpp"

#include "parallel/overlap.hpp"

namespace plimsoll {

AxisStrides strides_of(const Mesh& mesh) {
  return [&mesh](std::string_view axis) { return axis_stride(mesh, axis); };
}

Variant final_variant(const ProgramOptions& o) { return o.micro_batches > 1 ? Variant::Last : Variant::Only; }

std::vector<std::int64_t> of_stage(const std::vector<std::vector<std::int64_t>>& planned, const ProgramOptions& o) {
  const auto stage = static_cast<std::size_t>(coordinates(o.mesh, o.rank).pipeline);
  return stage < planned.size() ? planned[stage] : std::vector<std::int64_t>{};
}

std::optional<std::vector<std::size_t>> planned_ends(std::span<const ReadyItem> items,
                                                     const std::vector<std::int64_t>& bytes) {
  std::vector<std::size_t> ends;
  std::size_t item = 0;
  for (std::int64_t left : bytes) {
    const std::size_t begin = item;
    for (; left > 0 && item < items.size(); left -= items[item++].bytes) {
      if (item > begin && !items[item].joins) return std::nullopt;
    }
    if (left != 0) return std::nullopt;
    ends.push_back(item);
  }
  if (ends.empty() || item != items.size()) return std::nullopt;
  return ends;
}

Graph finished_graph(const ProgramOptions& o) {
  Graph graph = rewritten_graph(o).graph;
  if (o.mesh.tensor > 1) overlap_linears(graph, o.tensor_chunks);
  return graph;
}

}  // namespace plimsoll
