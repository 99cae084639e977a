#include "launch/plan_why.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "launch/known_plans.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kMoreBytes = std::int64_t{1} << 30;
constexpr std::int64_t kMorePercent = 10;
// Differences below that are rounding.
constexpr double kSame = 1e-9;

// The axis that collectives over such a group run along, in a layout.
std::string_view axis_of(const Layout& l, int stride) {
  const Mesh& mesh = l.mesh;
  if (mesh.tensor > 1 && stride == 1) return "tensor";
  if (l.zero == 0 || mesh.shards == mesh.data) return "data";
  return stride == mesh.tensor ? "shard" : "replica";
}

// Another machine, whose messages along one axis take `factor` times as long.
class ChangedLinks : public CostModel {
 public:
  ChangedLinks(const LayoutMachine& machine, const Layout& layout, std::string_view axis, double factor)
      : machine_(machine), layout_(layout), axis_(axis), factor_(factor) {}

  double node_seconds(const Graph& graph, const Node& node) const override {
    return machine_.costs->node_seconds(graph, node);
  }
  double memory_seconds(std::int64_t bytes) const override { return machine_.costs->memory_seconds(bytes); }
  double collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const override {
    const double seconds = machine_.costs->collective_seconds(kind, bytes, ranks, stride);
    return axis_of(layout_, stride) == axis_ ? factor_ * seconds : seconds;
  }
  // Stages send over the links of the description.
  LayoutMachine machine() const {
    LayoutMachine changed{machine_.cluster, this};
    if (axis_ != "pipeline") return changed;
    for (LinkDescription* link : {&changed.cluster.inside, &changed.cluster.between}) {
      link->latency_s *= factor_;
      link->bytes_per_s = factor_ > 0 ? link->bytes_per_s / factor_ : std::numeric_limits<double>::infinity();
    }
    return changed;
  }

 private:
  const LayoutMachine& machine_;
  const Layout& layout_;
  std::string_view axis_;
  double factor_;
};

std::vector<AxisPrice> price_axes(const LayoutProblem& problem, const LayoutMachine& machine, const Layout& l) {
  std::vector<AxisPrice> prices;
  const auto add = [&](std::string_view axis, int ranks, int stride) {
    if (ranks == 1) return;
    const auto step = [&](double factor) {
      const ChangedLinks links(machine, l, axis, factor);
      return LayoutCosts(problem, links.machine()).estimate(l).step_s;
    };
    const double now = step(1);
    prices.push_back({std::string(axis), ranks, std::int64_t{ranks} * stride <= machine.cluster.devices_per_node,
                      now - step(0), now - step(0.5)});
  };
  const Mesh& mesh = l.mesh;
  add("tensor", mesh.tensor, 1);
  if (axis_of(l, mesh.tensor) == "data") {
    add("data", mesh.data, mesh.tensor);
  } else {
    add("shard", mesh.shards, mesh.tensor);
    add("replica", mesh.data / mesh.shards, mesh.tensor * mesh.shards);
  }
  add("pipeline", mesh.pipeline, mesh.tensor * mesh.data);
  return prices;
}

// Asks the question of a plan again, with one thing changed at a time.
class Again {
 public:
  Again(const Config& config, const Place& place, const LayoutMachine& machine, const RankedLayout& fastest,
        const PlanContext& context)
      : config_(config), place_(place), machine_(machine), fastest_(fastest), context_(context) {}

  std::vector<ChangedPlan> all() {
    if (context_.budget_bytes.least() > 0) change_budget();
    if (config_.parallel.automatic && place_.ranks > machine_.cluster.devices_per_node)
      add("parallel.tensor", fmt::format("over the {} devices of two nodes", 2 * machine_.cluster.devices_per_node),
          config_, context_.budget_bytes, 2);
    if (config_.parallel.shares.empty()) {
      Config twice = config_;
      twice.train.global_batch *= 2;
      add("train.global_batch", "twice as many sequences", twice, context_.budget_bytes, 1, 2);
    }
    change_given();
    return std::move(changes_);
  }

 private:
  void change_budget() {
    const auto with = [&](const std::string& change, const std::function<std::int64_t(std::int64_t)>& more) {
      std::vector<std::int64_t> by_rank;
      for (int rank = 0; rank < place_.ranks; ++rank) by_rank.push_back(more(context_.budget_bytes.of(rank)));
      add("memory.budget", change, config_, RankBudgets(std::move(by_rank)));
    };
    with("+ " + format_bytes(kMoreBytes), [](std::int64_t bytes) { return bytes + kMoreBytes; });
    with(fmt::format("+ {} %", kMorePercent), [](std::int64_t bytes) { return bytes + bytes / 100 * kMorePercent; });
    add("memory.budget", "no limit", config_, 0);
  }

  // What the configuration says and could leave to the planner.
  void change_given() {
    const auto leave = [&](const char* key, bool given, const std::function<void(Config&)>& change) {
      if (!given) return;
      Config with = config_;
      change(with);
      add(key, "auto", with, context_.budget_bytes);
    };
    const ParallelConfig& parallel = config_.parallel;
    const bool recompute = config_.memory.recompute != RecomputeMode::Auto || !config_.memory.recompute_layers.empty();
    leave("parallel", !parallel.automatic && !context_.budget_bytes.differ() && parallel.shares.empty(), [](Config& c) {
      c.parallel = {};
      c.parallel.automatic = true;
    });
    leave("train.micro_batch", config_.train.micro_batch.has_value() && parallel.shares.empty(),
          [](Config& c) { c.train.micro_batch.reset(); });
    leave("memory.recompute", recompute, [](Config& c) {
      c.memory.recompute = RecomputeMode::Auto;
      c.memory.recompute_layers.clear();
    });
    leave("comm.bucket", config_.comm.bucket.has_value(), [](Config& c) { c.comm.bucket.reset(); });
  }

  // `batches`: as many as the plan has in a step.
  void add(std::string key, std::string change, Config config, const RankBudgets& budgets, int tensor_nodes = 1,
           double batches = 1) {
    const bool automatic = config.parallel.automatic;
    const LayoutChoice choice = automatic
                                    ? *choose_layout(config, place_, machine_, budgets.least(), context_.outside_bytes,
                                                     {.most_tensor_nodes = tensor_nodes, .simulates = false})
                                    : predict_layout(config, place_, machine_, budgets, context_.outside_bytes);
    if (choice.best.empty()) return;
    const RankedLayout& best = choice.least_estimate();
    ChangedPlan& plan = changes_.emplace_back();
    plan.key = std::move(key);
    plan.change = std::move(change);
    plan.step_s = best.estimate.step_s / batches;
    plan.gain_s = fastest_.estimate.step_s - plan.step_s;
    if (best.layout != fastest_.layout) plan.layout = to_text(best.layout);
  }

  const Config& config_;
  const Place& place_;
  const LayoutMachine& machine_;
  const RankedLayout& fastest_;  // as estimated, like what they are compared with
  const PlanContext& context_;
  std::vector<ChangedPlan> changes_;
};

// The layout with everything kept and messages of the usual sizes, which is what is tried before anything is made
// again.
std::int64_t kept_bytes(const Config& config, const Place& place, const Layout& layout, const ProgramOptions& chosen,
                        const CostModel& costs, std::int64_t outside_bytes) {
  Config kept = config;
  use_layout(kept, layout);
  kept.parallel.tensor_chunks = chosen.tensor_chunks;
  kept.memory.recompute = RecomputeMode::None;
  kept.memory.recompute_layers.clear();
  kept.memory.logits = chosen.logits_bytes;
  if (!kept.comm.prefetch) kept.comm.prefetch = 1;
  if (!kept.comm.gather) kept.comm.gather = 0;
  const ProgramOptions o = choose_programs(kept, place, Purpose::Train, 0, outside_bytes, kNoHostLimit, &costs);
  std::int64_t most = 0;
  for (const int stage : distinct_stages(o)) most = std::max(most, known_bytes(at_stage(o, stage), 0).arena);
  return most + outside_bytes;
}

void add_memory(const std::vector<RankRole>& roles, const PlanContext& context, PlanWhy& why) {
  const auto margin = [&](const RankRole& role) {
    return context.budget_bytes.least_of(role.ranks) - role.programs.plan.total_bytes - context.outside_bytes;
  };
  const auto tightest = std::min_element(roles.begin(), roles.end(),
                                         [&](const RankRole& a, const RankRole& b) { return margin(a) < margin(b); });
  why.role = tightest->name;
  why.ranks = rank_ranges(tightest->ranks);
  why.budget_bytes = context.budget_bytes.least_of(tightest->ranks);
  why.needed_bytes = tightest->programs.plan.total_bytes + context.outside_bytes;
  const ProgramLayout& top = largest_program(tightest->programs.plan);
  why.node = fmt::format("{} of program '{}'", top.peak_node, top.name);
}

std::string percent(double part, double whole) { return fmt::format("{:.2f} %", 100 * part / whole); }

}  // namespace

PlanWhy explain_plan(const Config& config, const Place& place, const LayoutMachine& machine, const LayoutChoice& choice,
                     const std::vector<RankRole>& roles, const PlanContext& context) {
  const RankedLayout& best = choice.best.front();
  PlanWhy why;
  why.step_s = best.estimate.step_s;
  why.simulated_s = best.simulated_s;
  const RankedLayout& base = choice.least_estimate();
  why.base_s = base.estimate.step_s;
  if (base.layout != best.layout) why.base_layout = to_text(base.layout);
  add_memory(roles, context, why);
  why.recompute_s = best.estimate.recompute_s;
  if (why.recompute_s > 0)
    why.kept_bytes =
        kept_bytes(config, place, best.layout, roles.front().options, *machine.costs, context.outside_bytes);
  why.changes = Again(config, place, machine, base, context).all();
  why.axes = price_axes(layout_problem(config, place.ranks, 0), machine, best.layout);
  const LayoutEstimate& first = best.estimate;
  for (std::size_t i = 1; i < choice.best.size(); ++i) {
    const LayoutEstimate& e = choice.best[i].estimate;
    const std::optional<double>& other_s = choice.best[i].simulated_s;
    std::optional<double> simulated;
    if (other_s && best.simulated_s) simulated = *other_s - *best.simulated_s;
    why.others.push_back({to_text(choice.best[i].layout), simulated, e.step_s - first.step_s,
                          e.recompute_s - first.recompute_s, e.exposed_s - e.sizes_s - first.exposed_s + first.sizes_s,
                          e.idle_s - first.idle_s, e.update_s - first.update_s});
  }
  return why;
}

std::string why_text(const PlanWhy& why) {
  std::string out = fmt::format("why a step takes {}, as the search estimates it{}\n", format_seconds(why.step_s),
                                why.simulated_s ? ", and by simulation " + format_seconds(*why.simulated_s) : "");
  if (why.budget_bytes > 0)
    out +=
        fmt::format("  memory: {} (rank(s) {}) has least to spare, {} of {}; most is live at {}\n", why.role, why.ranks,
                    format_bytes(why.budget_bytes - why.needed_bytes), format_bytes(why.budget_bytes), why.node);
  if (why.recompute_s > 0)
    out += fmt::format("  recomputation takes {} ({}) for it; with {} nothing is made again\n",
                       format_seconds(why.recompute_s), percent(why.recompute_s, why.step_s),
                       format_bytes(why.kept_bytes));
  if (!why.base_layout.empty())
    out += fmt::format("  changes are held against the least estimate, {} with {}, which is slower by simulation\n",
                       format_seconds(why.base_s), why.base_layout);
  for (const ChangedPlan& c : why.changes) {
    out += fmt::format("  {}, {}: ", c.key, c.change);
    if (c.gain_s <= kSame * why.base_s) {
      out += c.gain_s < -kSame * why.base_s ? "no faster\n" : "does not bind\n";
      continue;
    }
    out += fmt::format("{} ({} less){}\n", format_seconds(c.step_s), percent(c.gain_s, why.base_s),
                       c.layout.empty() ? "" : " with " + c.layout);
  }
  for (const AxisPrice& a : why.axes) {
    out += fmt::format("  messages over {} ({} ranks, {} nodes) leave {} exposed; over links twice as fast {} less\n",
                       a.axis, a.ranks, a.inside ? "inside" : "between", format_seconds(a.exposed_s),
                       format_seconds(a.twice_s));
  }
  const auto more = [](double seconds) { return fmt::format("{:+.3f}", 1e3 * seconds); };
  for (const StepDifference& d : why.others)
    out += fmt::format("  {}: {} ms{}: recomputation {}, messages {}, idle {}, update {}, the rest {}\n", d.layout,
                       more(d.step_s), d.simulated_s ? fmt::format(" ({} by simulation)", more(*d.simulated_s)) : "",
                       more(d.recompute_s), more(d.exposed_s), more(d.idle_s), more(d.update_s), more(d.compute_s()));
  return out;
}

nlohmann::json why_json(const PlanWhy& why) {
  nlohmann::json json{
      {"step_ms", why.step_s * 1e3}, {"base_ms", why.base_s * 1e3}, {"recompute_ms", why.recompute_s * 1e3}};
  if (why.simulated_s) json["simulated_ms"] = *why.simulated_s * 1e3;
  if (!why.base_layout.empty()) json["base_layout"] = why.base_layout;
  json["memory"] = {{"role", why.role},
                    {"ranks", why.ranks},
                    {"node", why.node},
                    {"budget_bytes", why.budget_bytes},
                    {"needed_bytes", why.needed_bytes}};
  if (why.recompute_s > 0) json["kept_bytes"] = why.kept_bytes;
  for (const ChangedPlan& c : why.changes) {
    json["changes"].push_back(
        {{"key", c.key}, {"change", c.change}, {"step_ms", c.step_s * 1e3}, {"gain_ms", c.gain_s * 1e3}});
    if (!c.layout.empty()) json["changes"].back()["layout"] = c.layout;
  }
  for (const AxisPrice& a : why.axes)
    json["messages"].push_back({{"axis", a.axis},
                                {"ranks", a.ranks},
                                {"inside_nodes", a.inside},
                                {"exposed_ms", a.exposed_s * 1e3},
                                {"twice_as_fast_ms", a.twice_s * 1e3}});
  for (const StepDifference& d : why.others) {
    json["others"].push_back({{"layout", d.layout},
                              {"step_ms", d.step_s * 1e3},
                              {"recompute_ms", d.recompute_s * 1e3},
                              {"exposed_ms", d.exposed_s * 1e3},
                              {"idle_ms", d.idle_s * 1e3},
                              {"update_ms", d.update_s * 1e3}});
    if (d.simulated_s) json["others"].back()["simulated_ms"] = *d.simulated_s * 1e3;
  }
  return json;
}

}  // namespace plimsoll
