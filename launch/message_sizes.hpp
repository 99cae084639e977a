#pragma once
// How a step sends where the configuration says `auto`, by the links of comm.cluster: formulas of
// runtime/plan/shard_sizes.hpp say what is worth a look, the program on a clock which of that is fastest, and its byte
// plan whether it fits. Without comm.cluster nobody knows the links, and nothing is changed.

#include <functional>

#include "launch/config.hpp"
#include "launch/programs.hpp"
#include "parallel/data.hpp"

namespace plimsoll {

// Do the plans of all ranks fit?
using FitsEverywhere = std::function<bool(const ProgramOptions&)>;

// parallel.tensor_chunks: auto. The number of chunks with the shortest forward and backward of the slowest stage, of
// several the least; 1 where no other is faster and fits. The same on all ranks, whichever `options` are of.
int choose_tensor_chunks(const ProgramOptions& options, const FitsEverywhere& fits);

// Does this program sum gradients inside nodes first? Where it says so and a node holds some of the replicas.
bool sums_by_nodes(const ProgramOptions& options);
// Of the replicas that are neighbours on a node of so many ranks: how many can sum among themselves, a divisor of a
// cache line. 1 where a group is not of several nodes with several ranks each.
int node_replicas(const Mesh& mesh, std::int64_t ranks_per_node, DType dtype);

// Which gradients are summed at once, for `data` too: as many as comm.bucket allows, or what is done first by
// `options.costs`.
GradientBuckets size_buckets(const ProgramOptions& options, const Graph& graph, const FlatLayout& layout,
                             DataParallel& data);
// What gathers of ZeRO-3 take.
GatherAhead time_gathers(const ProgramOptions& options, const Graph& graph, const FlatLayout& layout);

// comm.prefetch: auto. The fastest distance of at most kMostPrefetch that fits, of several the least; at least 1.
inline constexpr int kMostPrefetch = 8;
int choose_prefetch_distance(const ProgramOptions& options, const FitsEverywhere& fits);

// comm.hierarchical: is it faster by `options.costs`, on the stage that is done last, and does it fit? Of options that
// say so.
bool choose_hierarchical(const ProgramOptions& options, const FitsEverywhere& fits);

// All of them, in options of which everything else was chosen. Error(Config) where comm.hierarchical: on cannot be had.
ProgramOptions choose_message_sizes(const Config& config, ProgramOptions options, const FitsEverywhere& fits);

}  // namespace plimsoll
