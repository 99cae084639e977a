#include "launch/message_sizes.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "launch/run_costs.hpp"
#include "launch/size_inputs.hpp"
#include "launch/step_times.hpp"
#include "parallel/overlap.hpp"
#include "parallel/pipeline.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/shard_sizes.hpp"
#include "runtime/plan/step_time.hpp"

namespace plimsoll {
namespace {

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

}  // namespace

LinkLine line_of(const MessageSeconds& seconds, std::int64_t bytes) {
  std::vector<LinkSample> samples;
  for (std::int64_t size = 1024; samples.empty() || size < 2 * bytes; size *= 2)
    samples.push_back({size, std::max(seconds(size), 1e-12)});
  return LinkTable(std::move(samples)).fit();
}

bool covers_collectives(const ProfiledCosts& measured, const Config& config, const ProgramOptions& o) {
  using enum LinkOperation;
  std::set<LinkOperation> sized;
  const bool chunks = o.mesh.tensor > 1 && config.parallel.tensor_chunks != 1;
  const bool gathers = o.zero == 3 && o.mesh.shards > 1;
  const bool units = o.zero > 0 && o.mesh.data > 1 && !config.comm.bucket;
  if (gathers || (chunks && o.sequence_parallel)) sized.insert({AllGather, ReduceScatter});
  if (chunks && !o.sequence_parallel) sized.insert(AllReduce);
  if (units && o.mesh.shards > 1) sized.insert(ReduceScatter);
  if (o.mesh.data > 1 && (o.zero == 0 || ((gathers || units) && o.mesh.shards < o.mesh.data))) sized.insert(AllReduce);
  return o.train && o.links == LinkSource::None && !sized.empty() &&
         std::all_of(sized.begin(), sized.end(), [&](LinkOperation op) { return measured.measures(op); });
}

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

namespace {

// Without ZeRO.
GradientBuckets size_whole_buckets(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout,
                                   DataParallel& data) {
  GradientBuckets sized;
  sized.node_ranks = data.node_ranks;
  const std::vector<GradientRange> items = gradient_items(graph, layout);
  std::vector<double> ends(graph.nodes.size(), 0);
  if (o.costs) ends = node_ends(graph, *o.costs, strides_of(o.mesh), final_variant(o));
  BucketProblem problem{ready_items(graph, items, ends), ends.back(), 0, {}};
  if (o.costs)
    problem.slows = o.costs->collective_slows(CollectiveKind::AllReduce, o.mesh.data, axis_stride(o.mesh, "data"));
  const auto planned = planned_ends(problem.items, of_stage(o.planned_buckets, o));
  data.bucket_ends = planned ? *planned : fixed_buckets(problem.items, data.bucket_bytes);
  if (o.costs) {
    const auto best_ends = [&](const BucketChoice& choice) {
      return planned || o.bucket_bytes ? data.bucket_ends : choice.best.ends;
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
  const std::int64_t element = dtype_bytes(gradient_dtype(graph));
  for (const GradientRange& bucket : join_items(items, data.bucket_ends))
    sized.bytes.push_back(bucket.elements * element);
  return sized;
}

}  // namespace

GradientBuckets size_buckets(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout, DataParallel& data,
                             bool timed) {
  return data.zero > 0 ? size_unit_buckets(o, graph, layout, data, timed) : size_whole_buckets(o, graph, layout, data);
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
  if (has_row_splits(options.recompute)) return 1;  // MLPs are cut into rows already
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

std::optional<PieceChoice> choose_pipeline_chunks(const Config& config, const ProgramOptions& options,
                                                  const FitsEverywhere& fits) {
  // The profile measures no messages between two ranks.
  if (!options.train || options.links != LinkSource::Cluster || options.mesh.pipeline == 1) return std::nullopt;
  if (has_row_splits(options.recompute)) return std::nullopt;  // the product at the end of a stage is cut already
  const std::int64_t rows = options.micro_batch * options.sequence;
  std::vector<std::int64_t> allowed;
  for (std::int64_t parts = 1; parts <= kMostPipelineChunks; ++parts) {
    if (!pipeline_chunks_fault(options.model, options.mesh.tensor, rows, parts)) allowed.push_back(parts);
  }
  const LayoutMachine machine{choose_cluster(config), options.costs.get()};
  const LinkDescription& link = link_of(machine.cluster, options.mesh.pipeline, axis_stride(options.mesh, "pipeline"));
  const LinkLine line{link.latency_s, link.bytes_per_s};
  std::set<std::int64_t> candidates;
  for (const int stage : distinct_stages(options)) {
    const Graph graph = rewritten_graph(at_stage(options, stage)).graph;
    for (int chunk = 0; chunk < options.chunks && allowed.size() > 1; ++chunk) {
      const auto nodes = output_product(graph, chunk);
      if (!nodes) continue;
      const double compute = options.costs->node_seconds(graph, graph.nodes[nodes->first]) +
                             options.costs->node_seconds(graph, graph.nodes[nodes->second]);
      const std::int64_t bytes = graph[graph.pieces[static_cast<std::size_t>(chunk)].output].spec.bytes();
      candidates.insert(choose_overlap_pieces(
                            compute, 2 * options.costs->memory_seconds(0), bytes, line,
                            [&](std::int64_t part) { return line.seconds(static_cast<double>(part)); }, allowed)
                            .pieces);
    }
  }
  const auto step_with = [&](std::int64_t parts) {
    ProgramOptions with = options;
    with.pipeline_chunks = static_cast<int>(parts);
    return fits(with) ? predict_step(rank_roles(with), machine).step_s : std::numeric_limits<double>::infinity();
  };
  PieceChoice choice;
  choice.seconds = choice.whole_s = predict_step(rank_roles(options), machine).step_s;
  for (const std::int64_t parts : candidates) {
    const double seconds = parts == 1 ? choice.whole_s : step_with(parts);
    if (seconds < choice.seconds * kFaster) choice = {parts, seconds, choice.whole_s};
  }
  return choice;
}

ProgramOptions choose_message_sizes(const Config& config, ProgramOptions options, const FitsEverywhere& fits) {
  if (!config.parallel.tensor_chunks) options.tensor_chunks = choose_tensor_chunks(options, fits);
  options = with_sums(config, options, fits);
  GatherKeys keys{config.comm.gather, {}};
  if (config.comm.prefetch) keys.distance = static_cast<int>(*config.comm.prefetch);
  options = choose_gathering(std::move(options), keys, fits);
  options = choose_unit_buckets(std::move(options), fits);
  if (!config.comm.pipeline_chunks) {
    options.pipeline_choice = choose_pipeline_chunks(config, options, fits);
    if (options.pipeline_choice) options.pipeline_chunks = static_cast<int>(options.pipeline_choice->pieces);
  }
  return options;
}

}  // namespace plimsoll
