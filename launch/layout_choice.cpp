#include "launch/layout_choice.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "launch/known_plans.hpp"
#include "launch/recompute_choice.hpp"
#include "launch/run_costs.hpp"
#include "launch/step_times.hpp"
#include "launch/yaml_reader.hpp"
#include "runtime/core/key_table.hpp"
#include "runtime/core/text.hpp"
#include "runtime/graph/offload.hpp"
#include "runtime/plan/offload_costs.hpp"

namespace plimsoll {
namespace {

// ExactMemory::sizes_s, of one stage. A bucket that was asked for is in the estimate.
double gain_of_sizes(const Programs& p, const ProgramOptions& o) {
  double of_each = 0, of_step = 0;
  if (p.chunk_times) of_each += p.chunk_times->whole_s - p.chunk_times->micro_batch_s;
  if (p.gathers && p.gathers->chosen) {  // with what sums that share their link gain
    of_each += p.gathers->plain->end_s - p.gathers->chosen->end_s;
  } else if (p.buckets && p.buckets->chosen && !o.bucket_bytes) {
    const Buckets& usual = p.buckets->apart ? *p.buckets->apart : p.buckets->against->fixed;
    (p.buckets->each_micro_batch ? of_each : of_step) += usual.end_s - p.buckets->chosen->end_s;
  }
  return static_cast<double>(o.micro_batches) * of_each + of_step;
}

// What a step takes in the programs of all stages; without memory.
class StepGains {
 public:
  StepGains(const ProgramOptions& options, const CostModel& costs) : options_(options), costs_(costs) {}

  // `there`: the options of the stage.
  void add(const Programs& stage, const ProgramOptions& there) {
    sizes_ = std::min(sizes_, gain_of_sizes(stage, options_));  // all stages are as fast as the slowest
    if (options_.recompute.empty()) return;
    const auto passes = static_cast<double>(options_.micro_batches + options_.mesh.pipeline - 1);
    const Graph& graph = stage.graph("train");
    recompute_ = std::max(recompute_, passes * (recompute_seconds(graph, costs_) + row_split_seconds(there, costs_) +
                                                offload_seconds(graph, costs_, options_.host.overlap)));
  }
  void write(ExactMemory& exact) const {
    exact.recompute_s = recompute_;
    exact.sizes_s = sizes_;
  }

 private:
  const ProgramOptions& options_;
  const CostModel& costs_;
  double recompute_ = 0;  // of the stage that has most, which adds that to the step
  double sizes_ = std::numeric_limits<double>::infinity();
};

// A rank other than the first may hold most: every stage that is not like a larger one.
ExactMemory largest_rank(const ProgramOptions& options, const CostModel& costs) {
  ExactMemory most;
  StepGains gains(options, costs);
  for (const int stage : distinct_stages(options)) {
    const ProgramOptions there = at_stage(options, stage);
    const Programs programs = build_programs(there);
    const MemoryPlan& plan = programs.plan;
    if (plan.total_bytes > most.arena_bytes) {
      most.arena_bytes = plan.total_bytes;
      most.class_bytes = plan.class_bytes;
    }
    most.host_lacking_bytes = std::max(most.host_lacking_bytes, plan.host_bytes - options.host.bytes);
    gains.add(programs, there);
  }
  gains.write(most);
  return most;
}

// Do its plans depend on sizes of messages that gain_of_sizes() counts?
bool has_sizes(const ProgramOptions& o) {
  const bool gathers = o.zero == 3 && o.mesh.shards > 1, buckets = o.mesh.data > 1;
  return o.costs && (gathers || (buckets && !o.bucket_bytes) || (o.mesh.tensor > 1 && o.tensor_chunks > 1));
}

// The same where it fits `arena_bytes` (0: no limit), as ExactLayouts::plan has it: of plans that are known already.
ExactMemory any_plan(const ProgramOptions& options, const CostModel& costs, std::int64_t arena_bytes) {
  ExactMemory any;
  for (const int stage : distinct_stages(options)) {
    if (arena_bytes == 0 && options.host.bytes == kNoHostLimit) break;
    const PlannedBytes bytes = known_bytes(at_stage(options, stage), arena_bytes);
    any.arena_bytes = std::max(any.arena_bytes, bytes.arena);
    any.host_lacking_bytes = std::max(any.host_lacking_bytes, bytes.host - options.host.bytes);
    if (arena_bytes > 0 && any.arena_bytes > arena_bytes) return largest_rank(options, costs);
  }
  if (options.recompute.empty() && !has_sizes(options)) return any;
  StepGains gains(options, costs);
  for (const int stage : distinct_stages(options)) {
    const ProgramOptions there = at_stage(options, stage);
    gains.add(timed_programs(there), there);
  }
  gains.write(any);
  return any;
}

std::int64_t class_bytes(const ExactMemory& memory, std::initializer_list<MemoryClass> classes) {
  std::int64_t sum = 0;
  for (const MemoryClass c : classes) sum += memory.class_bytes[static_cast<std::size_t>(c)];
  return sum;
}

std::int64_t host_limit(const Config& config) { return config.memory.host_budget.value_or(kNoHostLimit); }

// Of a list with a mode per layer the one that keeps least: the small graphs of the planner are of no layer in
// particular, and its bounds of memory stay true. Auto: anything may be dropped.
RecomputeMode recompute_mode(const MemoryConfig& memory) {
  std::vector<RecomputeMode> modes{memory.recompute};
  for (const LayerRecompute& layer : memory.recompute_layers) modes.push_back(layer.mode);
  for (const RecomputeMode mode :
       {RecomputeMode::Auto, RecomputeMode::Offload, RecomputeMode::Full, RecomputeMode::Selective}) {
    if (std::find(modes.begin(), modes.end(), mode) != modes.end()) return mode;
  }
  return RecomputeMode::None;
}

}  // namespace

LayoutProblem layout_problem(const Config& config, int ranks, std::int64_t arena_bytes) {
  LayoutProblem p;
  p.model = config.model;
  p.dtype = config.precision;
  p.fp8 = config.fp8 == Fp8Use::Linears;
  p.fp8_multiples = config.device == DeviceKind::Cuda;
  p.fused_heads = fused_heads_of(config);
  p.sequence = config.data.sequence;
  p.global_batch = config.train.global_batch;
  p.micro_batch = config.train.micro_batch;
  p.optimizer = config.optimizer;
  if (config.comm.bucket) p.bucket_bytes = p.unit_bucket_bytes = *config.comm.bucket;
  if (config.comm.prefetch) p.least_prefetch = static_cast<int>(*config.comm.prefetch);
  if (config.memory.logits) p.logits_bytes = *config.memory.logits;
  p.ranks = ranks;
  p.budget_bytes = arena_bytes;
  p.reduction_scratch = true;
  p.pipelines = !config.model.tied || config.comm.collectives != CollectiveSource::Mpi;
  p.most_zero = config.comm.hierarchical == HierarchicalSums::On ? 0 : 3;
  const RecomputeMode mode = recompute_mode(config.memory);
  p.rewrite_at_need = mode == RecomputeMode::Auto;
  p.offload = config.memory.host_budget.value_or(0) > 0;
  const bool links = !config.comm.cluster.empty();
  p.sized_buckets = links && !config.comm.bucket;
  p.sized_gathers = links;
  p.sized_chunks = links && config.parallel.tensor_chunks != 1;
  const bool unlimited = p.rewrite_at_need && arena_bytes == 0 && config.memory.recompute_layers.empty();
  if (mode != RecomputeMode::None && !unlimited) {
    p.rewrite = [mode](Graph& graph) {
      const auto layers = static_cast<std::size_t>(std::ssize(layers_of(graph)));
      const std::vector<LayerRecompute> all(layers, {mode, {}});
      const std::vector<ValueId> sent = offloaded_values(graph, all);
      recompute(graph, keep_sets(graph, all));
      offload(graph, sent);
    };
  }
  return p;
}

void use_layout(Config& config, const Layout& layout) {
  config.parallel = to_parallel(layout);
  config.train.micro_batch = layout.micro_batch;
}

Layout layout_of(const ProgramOptions& o) {
  Layout l;
  l.mesh = o.mesh;
  l.zero = o.zero;
  l.sequence_parallel = o.sequence_parallel;
  l.schedule = o.schedule;
  l.chunks = o.chunks;
  l.micro_batch = o.micro_batch;
  l.micro_batches = o.micro_batches;  // of the replica that has most
  if (o.mesh.pipeline == 1) return l;
  const std::vector<int> first = program_cuts(o);
  for (std::size_t i = 0; i < first.size(); ++i)
    l.stage_layers.push_back((i + 1 < first.size() ? first[i + 1] : o.model.layers) - first[i]);
  return l;
}

LayoutChoice predict_layout(const Config& config, const Place& place, const LayoutMachine& machine,
                            const RankBudgets& budgets, std::int64_t outside_bytes) {
  const ProgramOptions options =
      choose_programs(config, place, Purpose::Train, budgets, outside_bytes, host_limit(config), machine.costs);
  LayoutCosts estimates(layout_problem(config, place.ranks, 0), machine);
  LayoutChoice choice;
  choice.tried = choice.planned = 1;
  const Layout layout = layout_of(options);
  choice.best.push_back({layout, estimates.estimate(layout), largest_rank(options, *machine.costs)});
  LayoutEstimate& estimate = choice.best.front().estimate;
  if (estimates.problem().rewrite_at_need) estimate.set_recompute(choice.best.front().exact->recompute_s);
  estimate.set_sizes(choice.best.front().exact->sizes_s);
  return choice;
}

namespace {

Config with_layout(const Config& config, const Layout& layout) {
  Config with = config;
  use_layout(with, layout);
  return with;
}

// Of other modes the estimate of the layout has the time.
ExactMemory without_estimated(const Config& config, ExactMemory exact) {
  if (recompute_mode(config.memory) != RecomputeMode::Auto) exact.recompute_s = 0;
  return exact;
}

}  // namespace

ExactMemory exact_memory(const Config& config, const Place& place, const Layout& layout, const CostModel& costs,
                         std::int64_t budget_bytes, std::int64_t outside_bytes) {
  const ProgramOptions options = choose_programs(with_layout(config, layout), place, Purpose::Train, budget_bytes,
                                                 outside_bytes, host_limit(config), &costs);
  return without_estimated(config, largest_rank(options, costs));
}

namespace {

// What the search for the recomputation of one stage says of a step; nullopt: nothing fits.
std::optional<double> stage_recompute_s(const Config& config, const Place& place, const Layout& layout, int stage,
                                        const CostModel& costs, std::int64_t budget_bytes, std::int64_t outside_bytes) {
  Config with = with_layout(config, layout);
  with.memory.recompute = RecomputeMode::None;
  const ProgramOptions kept =
      choose_programs(with, place, Purpose::Train, budget_bytes, outside_bytes, host_limit(config), &costs);
  const StageChoice choice = choose_stage_recompute(kept, stage, costs, budget_bytes - outside_bytes);
  if (choice.arena_bytes > budget_bytes - outside_bytes) return std::nullopt;
  return static_cast<double>(kept.micro_batches + kept.mesh.pipeline - 1) * choice.plan.seconds;
}

}  // namespace

std::optional<LayoutChoice> choose_layout(Config& config, const Place& place, const LayoutMachine& machine,
                                          std::int64_t budget_bytes, std::int64_t outside_bytes,
                                          const LayoutSearch& search) {
  if (!config.parallel.automatic) return std::nullopt;
  const std::int64_t arena = budget_bytes == 0 ? 0 : std::max<std::int64_t>(1, budget_bytes - outside_bytes);
  Place first = place;
  first.rank = 0;
  // They are the last resort, also of the layout that needs least where none fits, and no bounds are made for them.
  Config whole = config;
  whole.memory.row_splits = false;
  ExactLayouts exact;
  std::vector<std::pair<Layout, ProgramOptions>> planned;
  const auto programs_of = [&](const Layout& layout) -> const ProgramOptions& {
    return std::find_if(planned.begin(), planned.end(), [&](const auto& p) { return p.first == layout; })->second;
  };
  exact.plan = [&](const Layout& layout) {
    const ProgramOptions& options =
        planned
            .emplace_back(
                layout, choose_programs(with_layout(whole, layout), first, Purpose::Train, budget_bytes, outside_bytes,
                                        host_limit(config), machine.costs, nullptr, nullptr, Effort::Quick))
            .second;
    return without_estimated(config, any_plan(options, *machine.costs, arena));
  };
  exact.describe = [&](const Layout& layout) {
    return without_estimated(config, largest_rank(programs_of(layout), *machine.costs));
  };
  if (search.simulates) {
    exact.simulate = [&](const Layout& layout) {
      return predict_step(rank_roles(programs_of(layout)), machine).step_s;
    };
  }
  if (arena > 0 && config.memory.recompute == RecomputeMode::Auto && config.memory.recompute_layers.empty()) {
    exact.recompute_s = [&](const Layout& layout, int stage) {
      return stage_recompute_s(whole, first, layout, stage, *machine.costs, budget_bytes, outside_bytes);
    };
  }
  LayoutProblem problem = layout_problem(config, place.ranks, arena);
  problem.most_tensor_nodes = search.most_tensor_nodes;
  LayoutChoice choice = choose_layout(problem, machine, exact);
  require(!choice.best.empty() || choice.least_memory, ErrorKind::Config,
          "{}: no layout of {} ranks can run this model and batch: {}", key_place(config, "parallel"), place.ranks,
          choice.fell.empty() ? "" : choice.fell.front().text);
  use_layout(config, choice.best.empty() ? choice.least_memory->layout : choice.best.front().layout);
  return choice;
}

namespace {

// All of them, or, where they are many, the first of every reason.
std::string fallen_text(const LayoutChoice& choice) {
  constexpr std::int64_t kAll = 48, kOfEach = 6;
  const bool all = std::ssize(choice.fell) <= kAll;
  std::map<std::string, std::int64_t> shown;
  std::string out;
  for (const FallenLayout& f : choice.fell) {
    if (all || ++shown[f.reason] <= kOfEach) out += fmt::format("  {}: {}\n", to_text(f.layout), f.text);
  }
  return all ? out : out + "  --json has all of them\n";
}

}  // namespace

std::string parallel_line(const ParallelConfig& parallel) { return parallel_keys().write(parallel).one_line(); }

ParallelConfig read_parallel_line(const std::string& line, const std::string& file) {
  ConfigErrors errors;
  const ConfigNode layout = read_yaml(line, file, errors, true);
  ParallelConfig parallel;
  if (errors.empty()) parallel_keys().read(parallel, layout, {"parallel", &errors, nullptr});
  require(errors.empty(), ErrorKind::BadData, "{}: its layout cannot be read: {}", file, errors.text());
  return parallel;
}

std::string layout_text(const LayoutChoice& choice, const ClusterDescription& cluster, std::int64_t arena_bytes,
                        bool why) {
  std::string out = fmt::format(
      "layouts on {}: {} tried, {} planned; step, MFU, bubble and exposed are estimates of the search, "
      "simulated is the step of close ones\n",
      cluster.device.name, format_count(choice.tried), format_count(choice.planned));
  out += fmt::format("  {:>11}{:>11}{:>8}{:>9}{:>12}{:>12}{:>12}{:>12}{:>12}  {}\n", "simulated", "step", "MFU",
                     "bubble", "exposed", "state", "activations", "arena", "margin", "layout");
  for (const RankedLayout& r : choice.best) {
    const LayoutEstimate& e = r.estimate;
    const ExactMemory memory = r.exact.value_or(ExactMemory{e.memory_bound_bytes, {}});
    using enum MemoryClass;
    out += fmt::format("  {:>11}{:>11}{:>6.1f} %{:>7.1f} %{:>12}{:>12}{:>12}{:>12}{:>12}  {}\n",
                       r.simulated_s ? format_seconds(*r.simulated_s) : "", format_seconds(e.step_s), 100 * e.mfu,
                       100 * e.bubble, format_seconds(e.exposed_s),
                       format_bytes(class_bytes(memory, {Parameters, Gradients, Optimizer})),
                       format_bytes(class_bytes(memory, {Activations})), format_bytes(memory.arena_bytes),
                       arena_bytes > 0 ? format_bytes(arena_bytes - memory.arena_bytes) : "", to_text(r.layout));
  }
  if (choice.best.empty() && choice.least_memory) {
    const auto& least = *choice.least_memory;
    out += fmt::format("  none fits; least memory: an arena of {} with {}\n",
                       least.exact ? format_bytes(least.exact->arena_bytes) + " without row-splits"
                                   : "at least " + format_bytes(least.estimate.memory_bound_bytes),
                       to_text(least.layout));
  }
  std::vector<std::string> reasons;
  for (const auto& [reason, count] : choice.fallen)
    reasons.push_back(fmt::format("{} {}", reason, format_count(count)));
  if (!reasons.empty()) out += fmt::format("  fell: {}\n", join(reasons, ", "));
  if (choice.unplanned_least_s)
    out += fmt::format("  the search ended after {} plans: what it has not planned takes at least {}\n",
                       format_count(choice.planned), format_seconds(*choice.unplanned_least_s));
  return why ? out + fallen_text(choice) : out;
}

namespace {

// In words, and as a configuration says it.
nlohmann::json name_json(const Layout& layout) {
  return {{"layout", to_text(layout)},
          {"parallel", parallel_line(to_parallel(layout))},
          {"micro_batch", layout.micro_batch}};
}

}  // namespace

nlohmann::json layout_json(const LayoutChoice& choice, bool why) {
  nlohmann::json json{{"tried", choice.tried}, {"planned", choice.planned}, {"fallen", choice.fallen}};
  json["best"] = nlohmann::json::array();
  for (const RankedLayout& r : choice.best) {
    nlohmann::json row = name_json(r.layout);
    row.update({{"step_ms", r.estimate.step_s * 1e3},
                {"mfu", r.estimate.mfu},
                {"bubble", r.estimate.bubble},
                {"exposed_ms", r.estimate.exposed_s * 1e3},
                {"update_ms", r.estimate.update_s * 1e3},
                {"recompute_ms", r.estimate.recompute_s * 1e3},
                {"sizes_ms", r.estimate.sizes_s * 1e3},
                {"memory_bound_bytes", r.estimate.memory_bound_bytes}});
    if (r.simulated_s) row["simulated_ms"] = *r.simulated_s * 1e3;
    if (r.exact) {
      row["arena_bytes"] = r.exact->arena_bytes;
      for (std::size_t c = 0; c < r.exact->class_bytes.size(); ++c)
        row["class_bytes"][std::string(kMemoryClassNames[c])] = r.exact->class_bytes[c];
    }
    json["best"].push_back(std::move(row));
  }
  if (choice.unplanned_least_s) json["unplanned_least_ms"] = *choice.unplanned_least_s * 1e3;
  for (const FallenLayout& f : choice.fell) {
    if (!why) break;
    nlohmann::json row = name_json(f.layout);
    row.update({{"reason", f.reason}, {"text", f.text}});
    json["fell"].push_back(std::move(row));
  }
  return json;
}

}  // namespace plimsoll
