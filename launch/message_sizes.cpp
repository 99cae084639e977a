#include "launch/message_sizes.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "launch/run_costs.hpp"
#include "launch/step_times.hpp"
#include "parallel/overlap.hpp"
#include "parallel/pipeline.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/shard_sizes.hpp"
#include "runtime/plan/step_time.hpp"

namespace plimsoll {
namespace {

// Numbers that are less than a billionth apart are those of the same program.
constexpr double kFaster = 1 - 1e-9;
// Joined gathers take memory, which less than a thousandth of a micro-batch is not worth.
constexpr double kWorthJoining = 1 - 1e-3;

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

// Of the plan that is followed, what it has for this stage; empty: nothing.
std::vector<std::int64_t> of_stage(const std::vector<std::vector<std::int64_t>>& planned, const ProgramOptions& o) {
  const auto stage = static_cast<std::size_t>(coordinates(o.mesh, o.rank).pipeline);
  return stage < planned.size() ? planned[stage] : std::vector<std::int64_t>{};
}

// The ends of buckets of so many bytes; nullopt where these items do not add up to them.
std::optional<std::vector<std::size_t>> planned_ends(std::span<const ReadyItem> items,
                                                     const std::vector<std::int64_t>& bytes) {
  std::vector<std::size_t> ends;
  std::size_t item = 0;
  for (std::int64_t left : bytes) {
    while (left > 0 && item < items.size()) left -= items[item++].bytes;
    if (left != 0) return std::nullopt;
    ends.push_back(item);
  }
  if (ends.empty() || item != items.size()) return std::nullopt;
  return ends;
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
  if (gathers || (chunks && o.sequence_parallel)) sized.insert({AllGather, ReduceScatter});
  if (chunks && !o.sequence_parallel) sized.insert(AllReduce);
  if (o.mesh.data > 1 && (o.zero == 0 || (gathers && o.mesh.shards < o.mesh.data))) sized.insert(AllReduce);
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

GradientBuckets size_buckets(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout,
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

namespace {

// The uses of a graph whose parameters are not placed yet, joined as `o` says, and what a gather takes. Without
// `o.costs` no use takes any time.
struct GatherProblem {
  GatherSections sections;
  MessageSeconds seconds;
};

// How much larger the largest shard is than an equal one: what units take is theirs.
double pace_of(const FlatLayout& layout) {
  std::int64_t most = 0;
  for (int r = 0; r < layout.shards; ++r) most = std::max(most, shard_elements(layout, r));
  return static_cast<double>(most * layout.shards) / static_cast<double>(layout.elements);
}

GatherProblem gather_problem(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout) {
  const auto nothing = [](std::int64_t) { return 0.0; };
  if (!o.costs) return {gathered_uses(graph, layout, std::vector<double>(graph.nodes.size(), 0), nothing), nothing};
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

GatherSections joined(const GatherProblem& problem, std::int64_t most_bytes, bool by_links) {
  GatherSections sections = problem.sections;
  if (most_bytes > 0) join_gathers(sections, most_bytes, by_links ? problem.seconds : nullptr);
  return sections;
}

// Joins the uses of gathers that end where the plan that is followed says; false: these uses have no such gathers.
bool join_as_planned(GatherSections& sections, const std::vector<std::int64_t>& ends) {
  GatherSections planned = sections;
  std::size_t end = 0, before = 0;
  for (std::vector<GatherUse>& uses : planned) {
    for (std::size_t u = 0; u < uses.size(); ++u) {
      const bool begins = u == 0 || (end > 0 && static_cast<std::size_t>(ends[end - 1]) == before + u);
      if (!begins && !uses[u].joins) return false;
      uses[u].joined = !begins;
      const bool closes = end < ends.size() && static_cast<std::size_t>(ends[end]) == before + u + 1;
      if (closes) ++end;
      if (u + 1 == uses.size() && !closes) return false;
    }
    before += uses.size();
  }
  if (end != ends.size()) return false;
  sections = std::move(planned);
  return true;
}

// As the plan says that these programs follow, or as `o` does.
GatherSections joined(const GatherProblem& problem, const ProgramOptions& o) {
  GatherSections sections = problem.sections;
  const std::vector<std::int64_t> ends = of_stage(o.planned_gathers, o);
  if (!ends.empty() && join_as_planned(sections, ends)) return sections;
  return joined(problem, o.gather_bytes, o.gather_by_links);
}

bool gathers_units(const ProgramOptions& o) { return o.zero == 3 && o.mesh.shards > 1; }

}  // namespace

std::vector<std::size_t> size_gathers(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout) {
  if (!gathers_units(o) || o.gather_bytes == 0) return {};
  return gather_ends(joined(gather_problem(o, graph, layout), o));
}

GatherAhead time_gathers(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout) {
  const GatherProblem problem = gather_problem(o, graph, layout);
  const GatherSections sections = joined(problem, o);
  GatherAhead gathers;
  gathers.distance = o.prefetch;
  gathers.most_bytes = o.gather_bytes;
  gathers.ends = gather_ends(sections);
  gathers.gathers = gathers.ends.size();
  gathers.uses = gather_ends(problem.sections).size();
  if (!o.costs) return gathers;
  gathers.chosen = time_prefetch(sections, problem.seconds, o.prefetch);
  gathers.usual = time_prefetch(sections, problem.seconds, 1);
  gathers.apart = time_prefetch(problem.sections, problem.seconds, o.prefetch);
  gathers.plain = time_prefetch(problem.sections, problem.seconds, 1);
  gathers.against = choose_prefetch(sections, problem.seconds, 0, kMostPrefetch);
  return gathers;
}

namespace {

// A way to gather, of all stages: what it takes on the slowest, and the most that it has gathered at once on any.
struct Gathering {
  std::int64_t most_bytes = 0;
  int distance = 1;
  double seconds = 0;
  std::int64_t buffer_bytes = 0;
};

Gathering time_gathering(const std::vector<GatherProblem>& stages, std::int64_t most_bytes, bool by_links,
                         int distance) {
  Gathering g{most_bytes, distance, 0, 0};
  for (const GatherProblem& stage : stages) {
    const Prefetch time = time_prefetch(joined(stage, most_bytes, by_links), stage.seconds, distance);
    g.seconds = std::max(g.seconds, time.end_s);
    g.buffer_bytes = std::max(g.buffer_bytes, time.buffer_bytes);
  }
  return g;
}

// Half of everything that a section uses, a quarter, …, down to the smallest unit.
std::vector<std::int64_t> gather_limits(const std::vector<GatherProblem>& stages) {
  std::int64_t most = 0, least = std::numeric_limits<std::int64_t>::max();
  for (const GatherProblem& stage : stages) {
    for (const std::vector<GatherUse>& uses : stage.sections) {
      std::int64_t all = 0;
      for (const GatherUse& use : uses) {
        all += use.bytes;
        least = std::min(least, use.bytes);
      }
      most = std::max(most, all);
    }
  }
  std::vector<std::int64_t> limits;
  for (std::int64_t bytes = most; bytes > least; bytes /= 2) limits.push_back(bytes);
  return limits;
}

}  // namespace

ProgramOptions choose_gathering(ProgramOptions options, const GatherKeys& keys, const FitsEverywhere& fits) {
  options.prefetch = keys.distance.value_or(1);
  options.gather_bytes = keys.bytes.value_or(0);
  options.gather_by_links = false;
  if (!options.train || !options.costs || !gathers_units(options) || (keys.distance && keys.bytes)) return options;
  std::vector<GatherProblem> stages;
  for (const int stage : distinct_stages(options)) {
    const ProgramOptions at = at_stage(options, stage);
    const Graph graph = finished_graph(at);
    stages.push_back(gather_problem(at, graph, flat_layout(graph, options.mesh.shards, options.state_shares)));
  }
  std::vector<std::int64_t> limits{options.gather_bytes};
  if (!keys.bytes) {
    const std::vector<std::int64_t> more = gather_limits(stages);
    limits.insert(limits.end(), more.begin(), more.end());
  }
  std::vector<Gathering> all;
  for (const std::int64_t limit : limits) {
    for (int distance = 1; distance <= (keys.distance ? 1 : kMostPrefetch); ++distance)
      all.push_back(time_gathering(stages, limit, !keys.bytes, keys.distance.value_or(distance)));
  }
  const Gathering usual = all.front();
  std::stable_sort(all.begin(), all.end(),
                   [](const Gathering& a, const Gathering& b) { return a.buffer_bytes < b.buffer_bytes; });
  // What is faster than all that takes less memory, from the fastest on; as usual was planned before.
  std::vector<Gathering> worth_it{usual};
  for (const Gathering& g : all) {
    const double gain = g.most_bytes > usual.most_bytes ? kWorthJoining : kFaster;
    if (g.seconds < worth_it.back().seconds * gain) worth_it.push_back(g);
  }
  for (; worth_it.size() > 1; worth_it.pop_back()) {
    ProgramOptions with = options;
    with.prefetch = worth_it.back().distance;
    with.gather_bytes = worth_it.back().most_bytes;
    with.gather_by_links = !keys.bytes && with.gather_bytes > 0;
    if (fits(with)) return with;
  }
  return options;
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
  if (!config.comm.pipeline_chunks) {
    options.pipeline_choice = choose_pipeline_chunks(config, options, fits);
    if (options.pipeline_choice) options.pipeline_chunks = static_cast<int>(options.pipeline_choice->pieces);
  }
  return options;
}

}  // namespace plimsoll
