// What ZeRO sends at once: which units are summed as one, which are gathered as one, and how far ahead.

#include <algorithm>
#include <limits>

#include "launch/size_inputs.hpp"

namespace plimsoll {
namespace {

// Joined messages take memory, which less than a thousandth of a micro-batch is not worth.
constexpr double kWorthJoining = 1 - 1e-3;

// How much larger the largest shard is than an equal one: what units take is theirs.
double pace_of(const FlatLayout& layout) {
  std::int64_t most = 0;
  for (int r = 0; r < layout.shards; ++r) most = std::max(most, shard_elements(layout, r));
  return static_cast<double>(most * layout.shards) / static_cast<double>(layout.elements);
}

// Of a micro-batch where ZeRO sums in each of them and most are not the last, else of the one that is.
Variant summing_variant(const ProgramOptions& o) {
  return o.zero >= 2 && o.micro_batches > 1 ? Variant::Middle : final_variant(o);
}

// Of units that ZeRO divides: over the shards and, where that is not for the last micro-batch, over their replicas.
MessageSeconds sums_of_units(const ProgramOptions& o, const FlatLayout& layout) {
  return [costs = o.costs, shards = o.mesh.shards, replicas = o.mesh.data / o.mesh.shards,
          near = axis_stride(o.mesh, "shard"), far = axis_stride(o.mesh, "replica"),
          inside_alone = summing_variant(o) == Variant::Middle, pace = pace_of(layout)](std::int64_t bytes) {
    const auto paced = static_cast<std::int64_t>(static_cast<double>(bytes) * pace);
    const double inside = costs->collective_seconds(CollectiveKind::ReduceScatter, paced, shards, near);
    if (inside_alone) return inside;
    return inside + costs->collective_seconds(CollectiveKind::AllReduce, paced / shards, replicas, far);
  };
}

// When backward makes the gradients of units, and what their sums take; nothing takes any time without `o.costs`, or
// where it is not `timed`.
struct UnitSums {
  std::vector<GradientRange> units;
  std::vector<double> node_ends;
  BucketProblem problem;
};
UnitSums unit_sums(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout, bool timed = true) {
  UnitSums sums;
  sums.units = gradient_items(graph, layout, o.zero);
  sums.node_ends.assign(graph.nodes.size(), 0);
  sums.problem.seconds = [](std::int64_t) { return 0.0; };
  if (o.costs && timed) {
    sums.node_ends = node_ends(graph, *o.costs, strides_of(o.mesh), summing_variant(o));
    sums.problem.seconds = sums_of_units(o, layout);
    sums.problem.slows =
        o.costs->collective_slows(CollectiveKind::ReduceScatter, o.mesh.shards, axis_stride(o.mesh, "shard"));
  }
  sums.problem.items = ready_items(graph, sums.units, sums.node_ends);
  sums.problem.compute_end_s = sums.node_ends.back();
  return sums;
}

// Units of at most so many bytes (0: each by itself) as one: as many as fit, or where the links say that it is worth
// it.
std::vector<std::size_t> joined_units(const UnitSums& sums, std::int64_t most_bytes, bool by_links) {
  if (most_bytes == 0 || !by_links) return fixed_buckets(sums.problem.items, most_bytes);
  BucketProblem problem = sums.problem;
  problem.most_bytes = most_bytes;
  return choose_buckets(problem).best.ends;
}

// As the plan says that these programs follow, or as `o` does.
std::vector<std::size_t> ends_of(const UnitSums& sums, const ProgramOptions& o) {
  if (const auto planned = planned_ends(sums.problem.items, of_stage(o.planned_buckets, o))) return *planned;
  if (o.bucket_bytes) return fixed_buckets(sums.problem.items, *o.bucket_bytes);
  return joined_units(sums, o.unit_bucket_bytes, o.unit_buckets_by_links);
}

// The uses of a graph whose parameters are not placed yet, joined as `o` says, and what a gather takes. Without
// `o.costs` no use takes any time.
struct GatherProblem {
  GatherSections sections;
  MessageSeconds seconds;
};

// Of programs that sum the units of each bucket as one.
GatherProblem gather_problem(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout,
                             const UnitSums& sums, const std::vector<std::size_t>& ends) {
  const std::vector<GradientRange> buckets = join_items(sums.units, ends);
  const auto nothing = [](std::int64_t) { return 0.0; };
  GatherSections sections = gathered_uses(graph, layout, buckets, sums.node_ends, sums.problem.seconds);
  if (!o.costs) return {std::move(sections), nothing};
  return {std::move(sections), [costs = o.costs, shards = o.mesh.shards, near = axis_stride(o.mesh, "shard"),
                                pace = pace_of(layout)](std::int64_t bytes) {
            const auto paced = static_cast<std::int64_t>(static_cast<double>(bytes) * pace);
            return costs->collective_seconds(CollectiveKind::AllGather, paced, shards, near);
          }};
}
GatherProblem gather_problem(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout) {
  const UnitSums sums = unit_sums(o, graph, layout);
  return gather_problem(o, graph, layout, sums, ends_of(sums, o));
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

// What the sums of these buckets take; with ZeRO-3 on the link that gathers use too, of a whole micro-batch.
Buckets time_unit_buckets(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout, const UnitSums& sums,
                          std::vector<std::size_t> ends) {
  if (!gathers_units(o)) return time_buckets(sums.problem, std::move(ends));
  const GatherProblem problem = gather_problem(o, graph, layout, sums, ends);
  const Prefetch time = time_prefetch(joined(problem, o), problem.seconds, o.prefetch);
  return {std::move(ends), time.end_s, time.exposed_s};
}

}  // namespace

GradientBuckets size_unit_buckets(const ProgramOptions& o, const Graph& graph, const FlatLayout& layout,
                                  DataParallel& data, bool timed) {
  const UnitSums sums = unit_sums(o, graph, layout, timed || o.unit_buckets_by_links);
  data.bucket_ends = ends_of(sums, o);
  GradientBuckets sized;
  sized.each_micro_batch = o.zero >= 2;
  for (const ReadyItem& bucket : ready_items(graph, join_items(sums.units, data.bucket_ends), sums.node_ends))
    sized.bytes.push_back(bucket.bytes);
  if (!o.costs || !timed) return sized;
  const std::vector<ReadyItem>& units = sums.problem.items;
  const auto time = [&](std::vector<std::size_t> ends) {
    return time_unit_buckets(o, graph, layout, sums, std::move(ends));
  };
  sized.chosen = time(data.bucket_ends);
  sized.against =
      BucketChoice{time(choose_buckets(sums.problem).best.ends), time(fixed_buckets(units, kFixedBucketBytes)),
                   time(fixed_buckets(units, std::numeric_limits<std::int64_t>::max()))};
  sized.apart = time(fixed_buckets(units, 0));
  return sized;
}

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
  const UnitSums sums = unit_sums(o, graph, layout);
  const GatherProblem plain = gather_problem(o, graph, layout, sums, joined_units(sums, 0, false));
  gathers.plain = time_prefetch(plain.sections, plain.seconds, 1);
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

namespace {

// A way to sum: DP or as many as fit; what it takes on the slowest stage.
struct Summing {
  std::int64_t most_bytes = 0;
  bool by_links = false;
  double seconds = 0;
};

// All units, half of them, a quarter, …, down to the smallest, which leaves each by itself; rising. The DP does not
// know of gathers that share the link, so with ZeRO-3 as many as fit are tried too, and three quarters between.
std::vector<Summing> ways_to_sum(const std::vector<UnitSums>& stages, bool gathers) {
  std::int64_t most = 0, least = std::numeric_limits<std::int64_t>::max();
  for (const UnitSums& stage : stages) {
    std::int64_t all = 0;
    for (const ReadyItem& unit : stage.problem.items) {
      all += unit.bytes;
      least = std::min(least, unit.bytes);
    }
    most = std::max(most, all);
  }
  std::vector<Summing> ways;
  for (std::int64_t bytes = most; bytes > least; bytes /= 2) {
    ways.push_back({bytes, true});
    if (!gathers) continue;
    ways.push_back({bytes, false});
    ways.push_back({bytes / 4 * 3, false});
  }
  std::reverse(ways.begin(), ways.end());
  return ways;
}

}  // namespace

ProgramOptions choose_unit_buckets(ProgramOptions options, const FitsEverywhere& fits) {
  options.unit_bucket_bytes = 0;
  options.unit_buckets_by_links = false;
  const bool divides = options.zero > 0 && options.mesh.data > 1;
  const bool given = options.bucket_bytes || !options.planned_buckets.empty();
  if (!options.train || !options.costs || !divides || given) return options;
  std::vector<Graph> graphs;
  std::vector<FlatLayout> layouts;
  std::vector<ProgramOptions> places;
  std::vector<UnitSums> stages;
  for (const int stage : distinct_stages(options)) {
    places.push_back(at_stage(options, stage));
    graphs.push_back(finished_graph(places.back()));
    layouts.push_back(flat_layout(graphs.back(), options.mesh.shards, options.state_shares));
    stages.push_back(unit_sums(places.back(), graphs.back(), layouts.back()));
  }
  const auto time = [&](Summing way) {
    for (std::size_t s = 0; s < stages.size(); ++s) {
      const Buckets buckets = time_unit_buckets(places[s], graphs[s], layouts[s], stages[s],
                                                joined_units(stages[s], way.most_bytes, way.by_links));
      way.seconds = std::max(way.seconds, buckets.end_s);
    }
    return way;
  };
  const double gain = options.zero == 1 ? kFaster : kWorthJoining;
  std::vector<Summing> worth_it{time({})};
  for (const Summing& way : ways_to_sum(stages, gathers_units(options))) {
    const Summing timed = time(way);
    if (timed.seconds < worth_it.back().seconds * gain) worth_it.push_back(timed);
  }
  // From the fastest on; units by themselves were planned before.
  for (; worth_it.size() > 1; worth_it.pop_back()) {
    ProgramOptions with = options;
    with.unit_bucket_bytes = worth_it.back().most_bytes;
    with.unit_buckets_by_links = worth_it.back().by_links;
    if (fits(with)) return with;
  }
  return options;
}

}  // namespace plimsoll
