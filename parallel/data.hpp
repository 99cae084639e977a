#pragma once
// Data parallelism: replicas of the model, each on its part of the global batch. Gradients are summed over the data
// axis; with ZeRO (Rajbhandari et al. 2020) the ranks of the shard axis divide what replicas would repeat: optimizer
// state (1), gradients (2), parameters (3). The shard axis is the data axis or, hybrid, the part of it that is near (a
// node); the sums then also go over the replica axis.

#include "runtime/model/flat_layout.hpp"

namespace plimsoll {

struct DataParallel {
  int ranks = 1;                   // of the data axis
  int shards = 1, shard_rank = 0;  // of the shard axis; 1 without ZeRO
  int zero = 0;
  std::int64_t bucket_bytes = std::int64_t{25}
                              << 20;  // without ZeRO: gradients summed at once; with it: those of a unit
  int replicas() const { return ranks / shards; }
};

// The passes, in this order, after add_backward() (of a forward-only graph just the first). Buffers "parameters",
// "gradients" and the moments hold this rank's shard of every unit where ZeRO divides them, else all units.

// Parameters into their flat buffer. ZeRO-3: every unit is gathered before it is used, in forward and again in
// backward, one use ahead, into a buffer that lives as long as the use.
void place_parameters(Graph& graph, const FlatLayout& layout, const DataParallel& data);

// Gradients into their flat buffer, and their sums over ranks, on the communication stream as backward finishes them:
// in the last micro-batch, or from ZeRO-2 on, where the gradients of a unit live only that long, in every one.
// `scratch_bytes`: what the transport's reduction needs.
void place_gradients(Graph& graph, const FlatLayout& layout, const DataParallel& data, std::int64_t scratch_bytes);

// After add_update(). ZeRO-1 and 2: updated shards go to all ranks.
void gather_updated(Graph& graph, const FlatLayout& layout, const DataParallel& data);

// One range of the flat gradient buffer that is sent at once, in elements.
struct Bucket {
  std::int64_t offset = 0, elements = 0;
  std::size_t ready_after = 0;  // node of the graph whose gradient is the last to be finished
};
// Whole units, as many as fit `bucket_bytes` but at least one, in the order in which backward finishes them.
std::vector<Bucket> gradient_buckets(const Graph& graph, const FlatLayout& layout, std::int64_t bucket_bytes);

}  // namespace plimsoll
