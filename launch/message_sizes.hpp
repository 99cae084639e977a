#pragma once
// How a step sends where the configuration says `auto`, by the links of comm.cluster or those that the kernel profile
// measured: formulas of runtime/plan/shard_sizes.hpp say what is worth a look, the program on a clock which of that is
// fastest, and its byte plan whether it fits. Without either nobody knows the links, and nothing is changed.

#include <functional>

#include "launch/config.hpp"
#include "launch/programs.hpp"
#include "parallel/data.hpp"
#include "runtime/plan/kernel_profile.hpp"

namespace plimsoll {

// Are all collectives that these programs size by their links measured? Measures them where the profile can; the same
// on all ranks. False where nothing is sized, or a description says what links are like.
bool covers_collectives(const ProfiledCosts& measured, const Config& config, const ProgramOptions& options);

// The line through what messages up to about `bytes` take.
LinkLine line_of(const MessageSeconds& seconds, std::int64_t bytes);

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
// `options.costs` (of units that ZeRO divides, up to ProgramOptions::unit_bucket_bytes). Of these not `timed`: only
// which.
GradientBuckets size_buckets(const ProgramOptions& options, const Graph& graph, const FlatLayout& layout,
                             DataParallel& data, bool timed = true);
// Of a graph whose parameters are not placed yet: which uses ZeRO-3 gathers as one (DataParallel::gather_ends), and
// what that takes.
std::vector<std::size_t> size_gathers(const ProgramOptions& options, const Graph& graph, const FlatLayout& layout);
GatherAhead time_gathers(const ProgramOptions& options, const Graph& graph, const FlatLayout& layout);

// comm.gather and comm.prefetch, nullopt: auto. `options` with the fastest joins and distance (at least 1, at most
// kMostPrefetch) on the slowest stage that fit; of several the one with the smallest buffers; joins only where they
// save a thousandth. Without `options.costs`: units by themselves, one ahead.
struct GatherKeys {
  std::optional<std::int64_t> bytes = std::nullopt;
  std::optional<int> distance = std::nullopt;
};
inline constexpr int kMostPrefetch = 8;
ProgramOptions choose_gathering(ProgramOptions options, const GatherKeys& keys, const FitsEverywhere& fits);

// comm.bucket: auto with ZeRO. `options` with the bytes up to which units are summed together that are fastest on the
// slowest stage and fit; of several the least. From ZeRO-2 on, whose joined gradients take memory, only where they save
// a thousandth. Without `options.costs`: units by themselves.
ProgramOptions choose_unit_buckets(ProgramOptions options, const FitsEverywhere& fits);

// comm.hierarchical: is it faster by `options.costs`, on the stage that is done last, and does it fit? Of options that
// say so.
bool choose_hierarchical(const ProgramOptions& options, const FitsEverywhere& fits);

// comm.pipeline_chunks: auto. The number of parts of the outputs between stages with the shortest predicted step, of
// several the least; 1 where no other is faster and fits. Its seconds are those of a step; nullopt: nothing to choose.
std::optional<PieceChoice> choose_pipeline_chunks(const Config& config, const ProgramOptions& options,
                                                  const FitsEverywhere& fits);

// All of them, in options of which everything else was chosen. Error(Config) where comm.hierarchical: on cannot be had.
ProgramOptions choose_message_sizes(const Config& config, ProgramOptions options, const FitsEverywhere& fits);

}  // namespace plimsoll
