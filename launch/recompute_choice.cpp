#include "launch/recompute_choice.hpp"

#include <algorithm>
#include <map>
#include <tuple>

namespace plimsoll {
namespace {

// Budgets of the planner that are told apart, from the least that anything fits into to keeping everything.
constexpr std::int64_t kSteps = 512;
// Of one answer of the planner, which is asked several times.
constexpr RecomputeLimits kLimits{2048, 20'000'000};

ProgramOptions at_stage(const ProgramOptions& options, int stage) {
  ProgramOptions there = options;
  there.rank = rank_at(options.mesh, {0, stage, 0});
  return there;
}

// Plans one stage.
class StageSearch {
 public:
  StageSearch(const ProgramOptions& there, const CostModel& costs, std::int64_t arena_bytes)
      : there_(there), budget_(arena_bytes) {
    choice_.stage = coordinates(there.mesh, there.rank).pipeline;
    choice_.graph = stage_graph(there, costs);
    choice_.seconds = choice_.graph.micro_batch_seconds;
    there_.recompute.assign(static_cast<std::size_t>(there.model.layers), {});
  }

  // False where nothing fits; then the choice is the one that needs least of those tried.
  bool run() {
    choice_.arena_bytes = planned_bytes(there_);
    if (choice_.arena_bytes <= budget_) return true;
    planner_.emplace(choice_.graph.stage);
    const bool full_fits = attempt(full(), 0);
    std::int64_t low = least_budget(), high = no_recompute_peak_bytes(planner_->stage());
    if (low >= high || !attempt(low)) return full_fits;
    // The same budgets of the planner are tried whatever the budget of the arena is: a larger one then goes at least as
    // far up, although the bytes of plans do not quite rise with the planner's budget.
    for (const std::int64_t width = std::max<std::int64_t>(1, (high - low) / kSteps); high - low > width;) {
      const std::int64_t middle = low + (high - low) / 2;
      (attempt(middle) ? low : high) = middle;
    }
    return true;
  }

  StageChoice&& take() { return std::move(choice_); }

 private:
  std::int64_t least_budget() {
    const RecomputeAnswer none = planner_->plan(0, kLimits);
    return std::holds_alternative<RecomputeInfeasible>(none) ? std::get<RecomputeInfeasible>(none).needed_bytes : 0;
  }

  // Nothing but boundaries is kept. Where the planner's smallest does not fit, its model may have been wrong about
  // which one is the smallest.
  RecomputePlan full() const {
    std::vector<LayerChoice> choices;
    for (const int kind : planner_->stage().layers) {
      const int layer = static_cast<int>(choices.size());
      choices.push_back({keep_nothing(planner_->stage().kinds[static_cast<std::size_t>(kind)]), layer, false});
    }
    return recompute_plan_of(planner_->stage(), std::move(choices));
  }

  bool attempt(std::int64_t model_bytes) {
    RecomputeAnswer answer = planner_->plan(model_bytes, kLimits);
    return std::holds_alternative<RecomputePlan>(answer) &&
           attempt(std::get<RecomputePlan>(std::move(answer)), model_bytes);
  }

  // Does it fit? The cheapest that does is kept, or, while none does, the smallest.
  bool attempt(RecomputePlan plan, std::int64_t model_bytes) {
    const std::int64_t bytes = bytes_with(layer_recompute(choice_.graph, plan));
    const bool fits = bytes <= budget_;
    const bool better = fits ? !fits_ || plan.seconds < choice_.plan.seconds : !fits_ && bytes < choice_.arena_bytes;
    fits_ = fits_ || fits;
    if (!better) return fits;
    choice_.arena_bytes = bytes;
    choice_.model_bytes = std::max(model_bytes, plan.peak_bytes);
    choice_.seconds = choice_.graph.micro_batch_seconds + plan.seconds;
    choice_.plan = std::move(plan);
    return fits;
  }

  std::int64_t bytes_with(const std::vector<LayerRecompute>& layers) {
    for (std::size_t i = 0; i < layers.size(); ++i)
      there_.recompute[static_cast<std::size_t>(choice_.graph.layers[i])] = layers[i];
    const auto known =
        std::find_if(known_.begin(), known_.end(), [&](const auto& entry) { return entry.first == layers; });
    return known != known_.end() ? known->second : known_.emplace_back(layers, planned_bytes(there_)).second;
  }

  ProgramOptions there_;
  std::int64_t budget_;
  StageChoice choice_;
  std::optional<RecomputePlanner> planner_;
  bool fits_ = false;
  std::vector<std::pair<std::vector<LayerRecompute>, std::int64_t>> known_;
};

// Stages with the same key have the same plan.
using StageKey = std::tuple<bool, bool, std::vector<int>>;
StageKey key_of(const ProgramOptions& o, int stage, const Schedule* schedule, const std::vector<int>& cuts) {
  std::vector<int> numbers;
  for (int chunk = 0; schedule != nullptr && chunk < o.chunks; ++chunk) {
    const auto piece = static_cast<std::size_t>(piece_index(o.mesh.pipeline, stage, chunk));
    const int end = piece + 1 < cuts.size() ? cuts[piece + 1] : static_cast<int>(o.model.layers);
    numbers.push_back(end - cuts[piece]);
    numbers.push_back(schedule->slots[static_cast<std::size_t>(stage)][static_cast<std::size_t>(chunk)]);
  }
  return {stage == 0, stage + 1 == o.mesh.pipeline, numbers};
}

std::vector<int> layers_at(const ProgramOptions& o, int stage, const std::vector<int>& cuts) {
  std::vector<int> layers;
  for (int chunk = 0; chunk < o.chunks; ++chunk) {
    const auto piece = static_cast<std::size_t>(piece_index(o.mesh.pipeline, stage, chunk));
    const int first = cuts.empty() ? 0 : cuts[piece];
    const int end = piece + 1 < cuts.size() ? cuts[piece + 1] : static_cast<int>(o.model.layers);
    for (int layer = first; layer < end; ++layer) layers.push_back(layer);
  }
  return layers;
}

}  // namespace

GraphStage stage_graph(const ProgramOptions& there, const CostModel& costs) {
  const KeepingGraph keeping = keeping_graph(there);
  GraphStageOptions options;
  options.threads = there.threads;
  if (keeping.schedule) {
    const std::vector<int>& slots = keeping.schedule->slots[static_cast<std::size_t>(keeping.stage)];
    options.in_flight = *std::max_element(slots.begin(), slots.end());
    options.slots = slots.size() > 1 || slots.front() > 1;
  }
  return graph_stage(keeping.graph, costs, options);
}

std::int64_t planned_bytes(const ProgramOptions& options) { return build_programs(options).plan.total_bytes; }

RecomputeChoice choose_recompute(const ProgramOptions& options, const CostModel& costs, std::int64_t arena_bytes) {
  RecomputeChoice result;
  result.fits = true;
  result.layers.assign(static_cast<std::size_t>(options.model.layers), {});
  const std::vector<int> cuts = program_cuts(options);
  std::optional<Schedule> schedule;
  if (options.mesh.pipeline > 1)
    schedule =
        make_schedule(options.schedule, options.mesh.pipeline, static_cast<int>(options.micro_batches), options.chunks);
  std::map<StageKey, std::size_t> known;
  for (int stage = 0; stage < options.mesh.pipeline; ++stage) {
    const auto [entry, is_new] =
        known.try_emplace(key_of(options, stage, schedule ? &*schedule : nullptr, cuts), result.stages.size());
    if (is_new) {
      StageSearch search(at_stage(options, stage), costs, arena_bytes);
      result.fits = search.run() && result.fits;
      result.stages.push_back(search.take());
      const double slots = static_cast<double>(options.micro_batches + options.mesh.pipeline - 1);
      result.step_seconds = std::max(result.step_seconds, slots * result.stages.back().seconds);
    }
    result.kind_of.push_back(entry->second);
    const StageChoice& choice = result.of_stage(stage);
    if (choice.plan.layers.empty()) continue;
    const std::vector<LayerRecompute> chosen = layer_recompute(choice.graph, choice.plan);
    const std::vector<int> layers = layers_at(options, stage, cuts);
    for (std::size_t i = 0; i < layers.size(); ++i) result.layers[static_cast<std::size_t>(layers[i])] = chosen[i];
  }
  const bool nothing = std::all_of(result.layers.begin(), result.layers.end(),
                                   [](const LayerRecompute& l) { return l == LayerRecompute{}; });
  if (nothing) result.layers.clear();
  return result;
}

}  // namespace plimsoll
