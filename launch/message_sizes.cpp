#include "launch/message_sizes.hpp"

#include <algorithm>
#include <set>

#include "launch/run_costs.hpp"
#include "parallel/overlap.hpp"
#include "runtime/plan/shard_sizes.hpp"
#include "runtime/plan/step_time.hpp"

namespace plimsoll {
namespace {

// Numbers that are less than a billionth apart are those of the same program.
constexpr double kFaster = 1 - 1e-9;

// The line through what messages up to `bytes` take.
LinkLine line_of(const MessageSeconds& seconds, std::int64_t bytes) {
  std::vector<LinkSample> samples;
  for (std::int64_t size = 1024; samples.empty() || size < 2 * bytes; size *= 2)
    samples.push_back({size, std::max(seconds(size), 1e-12)});
  return LinkTable(std::move(samples)).fit();
}

std::vector<std::int64_t> allowed_chunks(const ProgramOptions& o) {
  std::vector<std::int64_t> allowed;
  for (std::int64_t chunks = 1; chunks <= kMostTensorChunks; ++chunks) {
    if (!tensor_chunks_fault(o.micro_batch, o.sequence, o.sequence_parallel, chunks)) allowed.push_back(chunks);
  }
  return allowed;
}

// For every linear of the stage and its collective, by themselves, the best number of chunks.
void add_best_chunks(const Graph& graph, const ProgramOptions& o, std::span<const std::int64_t> allowed,
                     std::set<int>& chunks) {
  std::vector<const CollectiveCall*> call_of(graph.nodes.size(), nullptr);
  const std::vector<CollectiveCall> calls = collectives(graph);
  for (const CollectiveCall& call : calls) call_of[call.node] = &call;
  std::set<std::tuple<CollectiveKind, std::int64_t, double>> seen;
  for (const SplitLinear& linear : split_linears(graph)) {
    const CollectiveCall* call = call_of[linear.collective];
    if (call == nullptr) continue;
    const double compute = o.costs->node_seconds(graph, graph.nodes[linear.product]);
    if (!seen.emplace(call->kind, call->bytes(), compute).second) continue;
    const MessageSeconds seconds = [&](std::int64_t bytes) {
      return o.costs->collective_seconds(call->kind, bytes, call->ranks, axis_stride(o.mesh, call->axis));
    };
    chunks.insert(static_cast<int>(choose_overlap_pieces(compute, o.costs->memory_seconds(0), call->bytes(),
                                                         line_of(seconds, call->bytes()), seconds, allowed)
                                       .pieces));
  }
}

AxisStrides strides_of(const Mesh& mesh) {
  return [&mesh](std::string_view axis) { return axis_stride(mesh, axis); };
}

Variant final_variant(const ProgramOptions& o) { return o.micro_batches > 1 ? Variant::Last : Variant::Only; }

// Of a bucket, over all replicas at once.
MessageSeconds flat_sums(const ProgramOptions& o) {
  return [costs = o.costs, ranks = o.mesh.data, stride = axis_stride(o.mesh, "data")](std::int64_t bytes) {
    return costs->collective_seconds(CollectiveKind::AllReduce, bytes, ranks, stride);
  };
}

// Inside nodes, over nodes, and back.
MessageSeconds sums_of_nodes(const ProgramOptions& o) {
  return [costs = o.costs, inside = o.mesh.shards, nodes = o.mesh.data / o.mesh.shards,
          near = axis_stride(o.mesh, "shard"), far = axis_stride(o.mesh, "replica")](std::int64_t bytes) {
    return costs->collective_seconds(CollectiveKind::ReduceScatter, bytes, inside, near) +
           costs->collective_seconds(CollectiveKind::AllReduce, bytes / inside, nodes, far) +
           costs->collective_seconds(CollectiveKind::AllGather, bytes, inside, near);
  };
}

// The graph whose gradients and parameters are not placed yet, as the program will have it.
Graph finished_graph(const ProgramOptions& o) {
  Graph graph = rewritten_graph(o).graph;
  if (o.mesh.tensor > 1) overlap_linears(graph, o.tensor_chunks);
  return graph;
}

}  // namespace

bool sums_by_nodes(const ProgramOptions& o) {
  return o.hierarchical && o.zero == 0 && o.mesh.shards > 1 && o.mesh.shards < o.mesh.data;
}

int node_replicas(const Mesh& mesh, std::int64_t ranks_per_node, DType dtype) {
  const std::int64_t line = 64 / dtype_bytes(dtype);
  if (std::int64_t{mesh.data} * mesh.tensor <= ranks_per_node) return 1;
  for (int near = mesh.data - 1; near > 1; --near) {
    const bool on_a_node = ranks_per_node % (std::int64_t{near} * mesh.tensor) == 0;
    if (mesh.data % near == 0 && on_a_node && line % near == 0) return near;
  }
  return 1;
}

GradientBuckets size_buckets(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout,
                             DataParallel& data) {
  GradientBuckets sized;
  sized.node_ranks = data.node_ranks;
  const std::vector<GradientRange> items = gradient_items(graph, layout);
  std::vector<double> ends(graph.nodes.size(), 0);
  if (o.costs) ends = node_ends(graph, *o.costs, strides_of(o.mesh), final_variant(o));
  BucketProblem problem{ready_items(graph, items, ends), ends.back(), 0, {}};
  data.bucket_ends = fixed_buckets(problem.items, data.bucket_bytes);
  if (o.costs) {
    const auto best_ends = [&](const BucketChoice& choice) {
      return o.bucket_bytes ? data.bucket_ends : choice.best.ends;
    };
    if (data.node_ranks > 1) {
      problem.seconds = flat_sums(o);
      sized.flat = time_buckets(problem, best_ends(choose_buckets(problem)));
    }
    problem.seconds = data.node_ranks > 1 ? sums_of_nodes(o) : flat_sums(o);
    sized.against = choose_buckets(problem);
    data.bucket_ends = best_ends(*sized.against);
    sized.chosen = time_buckets(problem, data.bucket_ends);
  }
  const std::int64_t element = dtype_bytes(graph[graph.parameters.front().value].spec.dtype);
  for (const GradientRange& bucket : join_items(items, data.bucket_ends))
    sized.bytes.push_back(bucket.elements * element);
  return sized;
}

namespace {

struct PrefetchProblem {
  GatherSections sections;
  MessageSeconds seconds;
};

// How much larger the largest shard is than an equal one: what units take is theirs.
double pace_of(const FlatLayout& layout) {
  std::int64_t most = 0;
  for (int r = 0; r < layout.shards; ++r) most = std::max(most, shard_elements(layout, r));
  return static_cast<double>(most * layout.shards) / static_cast<double>(layout.elements);
}

PrefetchProblem prefetch_problem(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout) {
  const Variant variant = o.micro_batches > 1 ? Variant::Middle : Variant::Only;
  const int shards = o.mesh.shards, replicas = o.mesh.data / shards;
  const int near = axis_stride(o.mesh, "shard"), far = axis_stride(o.mesh, "replica");
  const auto paced = [pace = pace_of(layout)](std::int64_t bytes) {
    return static_cast<std::int64_t>(static_cast<double>(bytes) * pace);
  };
  const auto sum = [&](std::int64_t bytes) {
    const double inside = o.costs->collective_seconds(CollectiveKind::ReduceScatter, paced(bytes), shards, near);
    if (variant != Variant::Only) return inside;  // replicas wait for the last micro-batch
    return inside + o.costs->collective_seconds(CollectiveKind::AllReduce, paced(bytes) / shards, replicas, far);
  };
  return {gathered_uses(graph, layout, node_ends(graph, *o.costs, strides_of(o.mesh), variant), sum),
          [costs = o.costs, shards, near, paced](std::int64_t bytes) {
            return costs->collective_seconds(CollectiveKind::AllGather, paced(bytes), shards, near);
          }};
}

}  // namespace

GatherAhead time_gathers(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout) {
  GatherAhead gathers;
  gathers.distance = o.prefetch;
  if (!o.costs) return gathers;
  const PrefetchProblem problem = prefetch_problem(o, graph, layout);
  gathers.chosen = time_prefetch(problem.sections, problem.seconds, o.prefetch);
  gathers.usual = time_prefetch(problem.sections, problem.seconds, 1);
  gathers.against = choose_prefetch(problem.sections, problem.seconds, 0, kMostPrefetch);
  return gathers;
}

int choose_prefetch_distance(const ProgramOptions& options, const FitsEverywhere& fits) {
  if (!options.train || !options.costs || options.zero != 3 || options.mesh.shards == 1) return 1;
  const Graph graph = finished_graph(options);
  const PrefetchProblem problem =
      prefetch_problem(options, graph, flat_layout(graph, options.mesh.shards, options.state_shares));
  for (int most = kMostPrefetch; most > 1;) {
    ProgramOptions with = options;
    with.prefetch = choose_prefetch(problem.sections, problem.seconds, 0, most).best.distance;
    if (with.prefetch <= 1) break;
    if (fits(with)) return with.prefetch;
    most = with.prefetch - 1;
  }
  return 1;
}

bool choose_hierarchical(const ProgramOptions& options, const FitsEverywhere& fits) {
  if (!options.train || !options.costs || !sums_by_nodes(options)) return false;
  double by_nodes = 0, flat = 0;
  for (const int stage : distinct_stages(options)) {
    const Graph graph = finished_graph(at_stage(options, stage));
    DataParallel data;
    data.node_ranks = options.mesh.shards;
    data.bucket_bytes = options.bucket_bytes.value_or(kFixedBucketBytes);
    const GradientBuckets sized = size_buckets(options, graph, flat_layout(graph), data);
    by_nodes = std::max(by_nodes, sized.chosen->end_s);
    flat = std::max(flat, sized.flat->end_s);
  }
  return by_nodes < flat * kFaster && fits(options);
}

namespace {

// comm.hierarchical: `options` with the ranks of a node as the shard axis, or as they are.
ProgramOptions with_sums(const Config& config, const ProgramOptions& options, const FitsEverywhere& fits) {
  const CommConfig& comm = config.comm;
  if (comm.hierarchical == HierarchicalSums::Off || options.zero > 0 || options.mesh.data == 1) return options;
  ProgramOptions by_nodes = options;
  by_nodes.hierarchical = true;
  if (comm.node_ranks) {
    by_nodes.mesh.shards = static_cast<int>(*comm.node_ranks);
  } else if (!comm.cluster.empty()) {
    by_nodes.mesh.shards = node_replicas(options.mesh, choose_cluster(config).devices_per_node, options.dtype);
  }
  const bool possible = sums_by_nodes(by_nodes);
  if (comm.hierarchical == HierarchicalSums::Auto)
    return possible && choose_hierarchical(by_nodes, fits) ? by_nodes : options;
  require(possible, ErrorKind::Config,
          "{}: the {} replicas are not on several nodes with several of them on each, as comm.cluster says",
          key_place(config, "comm.hierarchical"), options.mesh.data);
  return by_nodes;
}

}  // namespace

int choose_tensor_chunks(const ProgramOptions& options, const FitsEverywhere& fits) {
  if (!options.train || !options.costs || options.mesh.tensor == 1) return 1;
  std::vector<Graph> graphs;
  std::set<int> candidates{1};
  const std::vector<std::int64_t> allowed = allowed_chunks(options);
  for (const int stage : distinct_stages(options)) {
    graphs.push_back(rewritten_graph(at_stage(options, stage)).graph);
    add_best_chunks(graphs.back(), options, allowed, candidates);
  }
  std::vector<std::pair<double, int>> by_time;
  for (const int chunks : candidates) {
    double slowest = 0;
    for (Graph graph : graphs) {
      overlap_linears(graph, chunks);
      slowest = std::max(slowest, micro_batch_seconds(graph, options));
    }
    const bool worth_it = by_time.empty() || slowest < by_time.front().first * kFaster;
    if (worth_it) by_time.insert(by_time.begin(), {slowest, chunks});
  }
  // Of those that were faster than any smaller number, the fastest that fits; one chunk was planned before.
  for (const auto& [seconds, chunks] : by_time) {
    ProgramOptions with = options;
    with.tensor_chunks = chunks;
    if (chunks == 1 || fits(with)) return chunks;
  }
  return 1;
}

ProgramOptions choose_message_sizes(const Config& config, ProgramOptions options, const FitsEverywhere& fits) {
  if (!config.parallel.tensor_chunks) options.tensor_chunks = choose_tensor_chunks(options, fits);
  options = with_sums(config, options, fits);
  options.prefetch = static_cast<int>(config.comm.prefetch.value_or(1));
  if (!config.comm.prefetch) options.prefetch = choose_prefetch_distance(options, fits);
  return options;
}

}  // namespace plimsoll
