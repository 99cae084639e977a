#include "launch/layout_choice.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "launch/recompute_choice.hpp"
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
  if (p.gathers && p.gathers->chosen) of_each += p.gathers->plain->end_s - p.gathers->chosen->end_s;
  if (p.chunk_times) of_each += p.chunk_times->whole_s - p.chunk_times->micro_batch_s;
  if (p.buckets && p.buckets->chosen && !o.bucket_bytes)
    of_step += p.buckets->against->fixed.end_s - p.buckets->chosen->end_s;
  return static_cast<double>(o.micro_batches) * of_each + of_step;
}

// A rank other than the first may hold most: every stage that is not like a larger one. The stage that recomputes most
// adds that to the step.
ExactMemory largest_rank(const ProgramOptions& options, const CostModel& costs) {
  ExactMemory most;
  const auto passes = static_cast<double>(options.micro_batches + options.mesh.pipeline - 1);
  double recompute = 0, sizes = std::numeric_limits<double>::infinity();
  for (const int stage : distinct_stages(options)) {
    const Programs programs = build_programs(at_stage(options, stage));
    const MemoryPlan& plan = programs.plan;
    if (plan.total_bytes > most.arena_bytes) most = {plan.total_bytes, plan.class_bytes};
    sizes = std::min(sizes, gain_of_sizes(programs, options));  // all stages are as fast as the slowest
    if (!options.recompute.empty())
      recompute = std::max(recompute, passes * (recompute_seconds(programs.graph("train"), costs) +
                                                offload_seconds(programs.graph("train"), costs, options.host.overlap)));
  }
  most.recompute_s = recompute;
  most.sizes_s = sizes;
  return most;
}

std::int64_t class_bytes(const ExactMemory& memory, std::initializer_list<MemoryClass> classes) {
  std::int64_t sum = 0;
  for (const MemoryClass c : classes) sum += memory.class_bytes[static_cast<std::size_t>(c)];
  return sum;
}

std::string milliseconds(double seconds) {
  return seconds < 10 ? fmt::format("{:.4g} ms", seconds * 1e3) : fmt::format("{:.4g} s", seconds);
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
  p.sequence = config.data.sequence;
  p.global_batch = config.train.global_batch;
  p.micro_batch = config.train.micro_batch;
  p.optimizer = config.optimizer;
  if (config.comm.bucket) p.bucket_bytes = *config.comm.bucket;
  if (config.comm.prefetch) p.least_prefetch = static_cast<int>(*config.comm.prefetch);
  if (config.memory.logits) p.logits_bytes = *config.memory.logits;
  p.ranks = ranks;
  p.budget_bytes = arena_bytes;
  p.reduction_scratch = true;
  p.pipelines = !config.model.tied || config.comm.collectives != CollectiveSource::Mpi;
  p.most_zero = config.comm.bucket || config.comm.hierarchical == HierarchicalSums::On ? 0 : 3;
  const RecomputeMode mode = recompute_mode(config.memory);
  p.rewrite_at_need = mode == RecomputeMode::Auto;
  p.offload = config.memory.host_budget.has_value();
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

ExactMemory exact_memory(const Config& config, const Place& place, const Layout& layout, const CostModel& costs,
                         std::int64_t budget_bytes, std::int64_t outside_bytes) {
  Config with = config;
  use_layout(with, layout);
  ExactMemory exact = largest_rank(
      choose_programs(with, place, Purpose::Train, budget_bytes, outside_bytes, host_limit(config), &costs), costs);
  // Of other modes the estimate of the layout has the time.
  if (recompute_mode(config.memory) != RecomputeMode::Auto) exact.recompute_s = 0;
  return exact;
}

namespace {

// What the search for the recomputation of one stage says of a step; nullopt: nothing fits.
std::optional<double> stage_recompute_s(const Config& config, const Place& place, const Layout& layout, int stage,
                                        const CostModel& costs, std::int64_t budget_bytes, std::int64_t outside_bytes) {
  Config with = config;
  use_layout(with, layout);
  with.memory.recompute = RecomputeMode::None;
  const ProgramOptions kept =
      choose_programs(with, place, Purpose::Train, budget_bytes, outside_bytes, host_limit(config), &costs);
  const StageChoice choice = choose_stage_recompute(kept, stage, costs, budget_bytes - outside_bytes);
  if (choice.arena_bytes > budget_bytes - outside_bytes) return std::nullopt;
  return static_cast<double>(kept.micro_batches + kept.mesh.pipeline - 1) * choice.plan.seconds;
}

}  // namespace

std::optional<LayoutChoice> choose_layout(Config& config, const Place& place, const LayoutMachine& machine,
                                          std::int64_t budget_bytes, std::int64_t outside_bytes) {
  if (!config.parallel.automatic) return std::nullopt;
  const std::int64_t arena = budget_bytes == 0 ? 0 : std::max<std::int64_t>(1, budget_bytes - outside_bytes);
  Place first = place;
  first.rank = 0;
  ExactLayouts exact;
  exact.plan = [&](const Layout& layout) {
    return exact_memory(config, first, layout, *machine.costs, budget_bytes, outside_bytes);
  };
  if (arena > 0 && config.memory.recompute == RecomputeMode::Auto && config.memory.recompute_layers.empty()) {
    exact.recompute_s = [&](const Layout& layout, int stage) {
      return stage_recompute_s(config, first, layout, stage, *machine.costs, budget_bytes, outside_bytes);
    };
  }
  LayoutChoice choice = choose_layout(layout_problem(config, place.ranks, arena), machine, exact);
  require(!choice.best.empty() || choice.least_memory, ErrorKind::Config,
          "{}: no layout of {} ranks can run this model and batch: {}", key_place(config, "parallel"), place.ranks,
          choice.examples.empty() ? "" : choice.examples.front().second);
  use_layout(config, choice.best.empty() ? choice.least_memory->layout : choice.best.front().layout);
  return choice;
}

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
  std::string out = fmt::format("layouts on {}: {} tried, {} planned\n", cluster.device.name,
                                format_count(choice.tried), format_count(choice.planned));
  out += fmt::format("  {:>11}{:>8}{:>9}{:>12}{:>12}{:>12}{:>12}{:>12}  {}\n", "step", "MFU", "bubble", "exposed",
                     "state", "activations", "arena", "margin", "layout");
  for (const RankedLayout& r : choice.best) {
    const LayoutEstimate& e = r.estimate;
    const ExactMemory memory = r.exact.value_or(ExactMemory{e.memory_bound_bytes, {}});
    using enum MemoryClass;
    out += fmt::format("  {:>11}{:>6.1f} %{:>7.1f} %{:>12}{:>12}{:>12}{:>12}{:>12}  {}\n", milliseconds(e.step_s),
                       100 * e.mfu, 100 * e.bubble, milliseconds(e.exposed_s),
                       format_bytes(class_bytes(memory, {Parameters, Gradients, Optimizer})),
                       format_bytes(class_bytes(memory, {Activations})), format_bytes(memory.arena_bytes),
                       arena_bytes > 0 ? format_bytes(arena_bytes - memory.arena_bytes) : "", to_text(r.layout));
  }
  if (choice.best.empty() && choice.least_memory) {
    const auto& least = *choice.least_memory;
    out += fmt::format("  none fits; least memory: {} with {}\n",
                       format_bytes(least.exact ? least.exact->arena_bytes : least.estimate.memory_bound_bytes),
                       to_text(least.layout));
  }
  std::vector<std::string> reasons;
  for (const auto& [reason, count] : choice.fallen)
    reasons.push_back(fmt::format("{} {}", reason, format_count(count)));
  if (!reasons.empty()) out += fmt::format("  fell: {}\n", join(reasons, ", "));
  if (!why) return out;
  for (const auto& [layout, text] : choice.examples) out += fmt::format("  {}: {}\n", to_text(layout), text);
  return out;
}

nlohmann::json layout_json(const LayoutChoice& choice) {
  nlohmann::json json{{"tried", choice.tried}, {"planned", choice.planned}, {"fallen", choice.fallen}};
  json["best"] = nlohmann::json::array();
  for (const RankedLayout& r : choice.best) {
    nlohmann::json row{{"layout", to_text(r.layout)},
                       {"parallel", parallel_line(to_parallel(r.layout))},
                       {"micro_batch", r.layout.micro_batch},
                       {"step_ms", r.estimate.step_s * 1e3},
                       {"mfu", r.estimate.mfu},
                       {"bubble", r.estimate.bubble},
                       {"exposed_ms", r.estimate.exposed_s * 1e3},
                       {"update_ms", r.estimate.update_s * 1e3},
                       {"recompute_ms", r.estimate.recompute_s * 1e3},
                       {"sizes_ms", r.estimate.sizes_s * 1e3},
                       {"memory_bound_bytes", r.estimate.memory_bound_bytes}};
    if (r.exact) {
      row["arena_bytes"] = r.exact->arena_bytes;
      for (std::size_t c = 0; c < r.exact->class_bytes.size(); ++c)
        row["class_bytes"][std::string(kMemoryClassNames[c])] = r.exact->class_bytes[c];
    }
    json["best"].push_back(std::move(row));
  }
  for (const auto& [layout, text] : choice.examples)
    json["why"].push_back({{"layout", to_text(layout)}, {"reason", text}});
  return json;
}

}  // namespace plimsoll
