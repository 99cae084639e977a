#pragma once
// Data parallelism: replicas of the model, each on its part of the global batch. Gradients are summed over the data
// axis; with ZeRO (Rajbhandari et al. 2020) the ranks of the shard axis divide what replicas would repeat: optimizer
// state (1), gradients (2), parameters (3). The shard axis is the data axis or, hybrid, the part of it that is near (a
// node); the sums then also go over the replica axis.

#include <functional>

#include "runtime/model/flat_layout.hpp"
#include "runtime/plan/bucket_sizes.hpp"

namespace plimsoll {

struct DataParallel {
  int ranks = 1;                   // of the data axis
  int shards = 1, shard_rank = 0;  // of the shard axis; 1 without ZeRO
  int zero = 0;
  // Which gradients are summed at once: the ends of buckets in gradient_items(). None: without ZeRO as many items as
  // fit these bytes, with it each unit by itself.
  std::vector<std::size_t> bucket_ends;
  std::int64_t bucket_bytes = kFixedBucketBytes;
  // Without ZeRO: neighbours on a node, which sum a bucket among themselves, each a share of it, before the shares are
  // summed over nodes; then all have all of it. Divides `ranks` and the elements of a cache line. 1: over all at once.
  int node_ranks = 1, node_rank = 0;
  // ZeRO-3: which uses in gathered_uses() are gathered as one (gather_ends(); none: each by itself), and how many
  // gathers ahead that begins.
  std::vector<std::size_t> gather_ends;
  int prefetch = 1;
  int replicas() const { return ranks / shards; }
};

// The passes, in this order, after add_backward() (of a forward-only graph just the first). Buffers "parameters",
// "gradients" and the moments hold this rank's shard of every unit where ZeRO divides them, else all units.

// Parameters into their flat buffer. ZeRO-3: every unit is gathered before it is used, in forward and again in
// backward, by itself or with neighbours, DataParallel::prefetch gathers ahead, into a buffer that lives from there to
// the end of its last use.
void place_parameters(Graph& graph, const FlatLayout& layout, const DataParallel& data);

// Gradients into their flat buffer, and their sums over ranks, on the communication stream as backward finishes them:
// in the last micro-batch, or from ZeRO-2 on, where the gradients of a unit live only that long, in every one.
// `scratch_bytes`: what the transport's reduction needs.
void place_gradients(Graph& graph, const FlatLayout& layout, const DataParallel& data, std::int64_t scratch_bytes);

// After add_update(). ZeRO-1 and 2: updated shards go to all ranks.
void gather_updated(Graph& graph, const FlatLayout& layout, const DataParallel& data);

// Of the gradients of all parameters of a graph that is differentiated.
DType gradient_dtype(const Graph& graph);

// A range of the flat gradient buffer, in elements.
struct GradientRange {
  std::int64_t offset = 0, elements = 0;
  std::size_t ready_after = 0;  // node of the graph whose gradient is the last to be finished
  bool joins = true;            // may be summed with the range before it
};

// What buckets are made of, in the order of the flat buffer, which is about that in which backward finishes them:
// without ZeRO each matrix with the vectors and the padding behind it, with it each unit. From ZeRO-2 on, units whose
// gradients different actions of a pipeline make do not join: they live in one.
std::vector<GradientRange> gradient_items(const Graph& graph, const FlatLayout& layout, int zero = 0);
// Items that are neighbours as one; `ends` as in Buckets (runtime/plan/bucket_sizes.hpp).
std::vector<GradientRange> join_items(const std::vector<GradientRange>& items, const std::vector<std::size_t>& ends);
// Of every item, when backward has finished it (`node_ends`: by node, runtime/plan/cost.hpp), its bytes, and whether it
// joins.
std::vector<ReadyItem> ready_items(const Graph& graph, const std::vector<GradientRange>& items,
                                   const std::vector<double>& node_ends);

// What ZeRO-3 will gather in forward and in backward, of a graph before the passes, which sums `sums` each at once.
// `node_ends`: by node (runtime/plan/cost.hpp); `sum_seconds`: of the gradients of a bucket of so many bytes.
GatherSections gathered_uses(const Graph& graph, const FlatLayout& layout, const std::vector<GradientRange>& sums,
                             const std::vector<double>& node_ends,
                             const std::function<double(std::int64_t)>& sum_seconds);

}  // namespace plimsoll
