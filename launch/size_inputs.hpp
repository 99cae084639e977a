#pragma once
// What the choices of message_sizes and unit_sizes have in common.

#include "launch/message_sizes.hpp"
#include "runtime/plan/step_time.hpp"

namespace plimsoll {

// Numbers that are less than a billionth apart are those of the same program.
inline constexpr double kFaster = 1 - 1e-9;

// `mesh` outlives it.
AxisStrides strides_of(const Mesh& mesh);
// Of the last micro-batch.
Variant final_variant(const ProgramOptions& options);

// Of the plan that is followed, what it has for this stage; empty: nothing.
std::vector<std::int64_t> of_stage(const std::vector<std::vector<std::int64_t>>& planned,
                                   const ProgramOptions& options);
// The ends of buckets of so many bytes; nullopt where these items do not add up to them, or do not join.
std::optional<std::vector<std::size_t>> planned_ends(std::span<const ReadyItem> items,
                                                     const std::vector<std::int64_t>& bytes);

// The graph whose gradients and parameters are not placed yet, as the program will have it.
Graph finished_graph(const ProgramOptions& options);

// size_buckets() with ZeRO.
GradientBuckets size_unit_buckets(const ProgramOptions& options, const Graph& graph, const FlatLayout& layout,
                                  DataParallel& data, bool timed);

}  // namespace plimsoll
