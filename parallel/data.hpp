#pragma once
// Data parallelism: replicas of the model, each on its part of the global batch; gradients are summed over the data
// axis.

#include "runtime/model/transformer.hpp"

namespace plimsoll {

// One range of the flat gradient buffer that is sent at once, in elements.
struct Bucket {
  std::int64_t offset = 0, elements = 0;
  std::size_t ready_after = 0;  // node of the graph whose gradient is the last to be finished
};

// Cuts the flat gradients into buckets of at most `bucket_bytes` (a larger parameter is a bucket of its own), in the
// order in which backward finishes them. The graph is differentiated and flattened.
std::vector<Bucket> gradient_buckets(const Graph& graph, const FlatLayout& layout, std::int64_t bucket_bytes);

// Inserts the all-reduces of the buckets and of the loss into the backward of the last micro-batch, each right after
// what it waits for, on the communication stream: they overlap with the rest of backward. The seed of the loss gradient
// is 1 / global count of tokens, so sums are averages. `scratch_bytes`: what the transport's reduction needs.
void add_data_parallel(Graph& graph, const FlatLayout& layout, int ranks, std::int64_t bucket_bytes,
                       std::int64_t scratch_bytes);

}  // namespace plimsoll
