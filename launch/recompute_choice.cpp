#include "launch/recompute_choice.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "launch/budget_search.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/offload_costs.hpp"

namespace plimsoll {
namespace {

// Of layers, the shares that may send values away beside compute, and what they pay for the link, as a share of the
// time that copies take: from nothing, where it keeps up with all that is worth sending, to what making values again
// costs.
constexpr double kShares[] = {0.75, 0.5, 0.25}, kPrices[] = {0, 0.1, 0.3};
// Of a micro-batch: what costs less is not improved by sending from some layers only.
constexpr double kLittle = 2e-3;
// Prices of the link that a bound is looked for at; what is best lies between them.
constexpr double kBoundPrices[] = {0.2, 0.35, 0.5, 0.8};

constexpr double kNever = std::numeric_limits<double>::infinity();

// What the recompute planner sees of a stage; what `options` say of it stays.
GraphStage stage_of(const KeepingGraph& keeping, const ProgramOptions& there, const CostModel& costs,
                    GraphStageOptions options = {}) {
  options.threads = there.threads;
  if (there.host.offered) options.offload_overlap = there.host.overlap;
  if (keeping.schedule) {
    const std::vector<int>& slots = keeping.schedule->slots[static_cast<std::size_t>(keeping.stage)];
    options.in_flight = *std::max_element(slots.begin(), slots.end());
    options.slots = slots.size() > 1 || slots.front() > 1;
  }
  return graph_stage(keeping.graph, costs, options);
}

bool may_send_boundaries(const RecomputeStage& stage) {
  return std::any_of(stage.kinds.begin(), stage.kinds.end(), [](const LayerKind& kind) {
    return std::any_of(kind.tensors.begin(), kind.tensors.end(), [](const LayerTensor& t) { return t.may_leave; });
  });
}

// Plans one stage.
class StageSearch {
 public:
  StageSearch(const ProgramOptions& there, const CostModel& costs, std::int64_t arena_bytes, Effort effort)
      : there_(there), costs_(costs), keeping_(keeping_graph(there)), budget_(arena_bytes), effort_(effort) {
    choice_.stage = keeping_.stage;
    choice_.graph = stage_of(keeping_, there, costs);
    choice_.seconds = choice_.graph.micro_batch_seconds;
  }

  // False where nothing fits; then the choice is the one that needs least of those tried.
  bool run(bool to_the_least) {
    BytePlans bytes(there_, keeping_.graph, choice_.graph.layers, budget_);
    search(bytes);
    if (!fits_) {
      choice_.arena_bytes = bytes.best_of(choice_.layers).arena;
      // Where there is little to make again, keeping everything may need less than any copies of it.
      const std::int64_t none = bytes.best_of({}).arena;
      if (none <= choice_.arena_bytes) {
        choice_.plan = {};
        choice_.layers.clear();
        choice_.arena_bytes = none;
        choice_.host_bytes = choice_.model_bytes = 0;
        choice_.seconds = choice_.graph.micro_batch_seconds;
      }
      fits_ = to_the_least && descend(bytes);
    }
    // Boundaries are small, and dear to wait for.
    const bool beside = there_.host.offered && there_.host.overlap, thorough = effort_ == Effort::Thorough;
    if (there_.host.offered && (beside ? thorough && !costs_little() : !fits_))
      search_boundaries(stage_of(keeping_, there_, costs_, {.boundaries_leave = true}), bytes);
    if (!fits_ && there_.row_splits && allows_row_splits(there_)) search_row_splits(bytes);
    // The last resort, which no bound of a layout's time knows of.
    return fits_ || (there_.host.offered && thorough && send_all(bytes));
  }

  StageChoice&& take() { return std::move(choice_); }

 private:
  // From the smallest plan to smaller ones; the first that fits, or else the smallest. The steps do not depend on the
  // budget, so that whatever is said to be needed has a plan.
  bool descend(BytePlans& bytes) {
    LayerChoices start = choice_.layers;
    if (start.empty()) start.resize(choice_.graph.layers.size());
    const std::vector<LayerChoices> smaller =
        smaller_choices(keeping_.graph, std::move(start), [&](const LayerChoices& layers) {
          const PlannedBytes plan = bytes.least_of(layers);
          return plan.host <= there_.host.bytes ? plan.least : std::numeric_limits<std::int64_t>::max();
        });
    for (const LayerChoices& layers : smaller) {
      const PlannedBytes plan = bytes.of(layers);
      if (plan.arena > budget_) continue;
      take(layers, plan);
      return true;
    }
    for (std::size_t i = smaller.size(); i-- > 0;) {
      if (bytes.least_of(smaller[i]).least >= choice_.arena_bytes + kArenaAlignment) break;
      const PlannedBytes plan = bytes.best_of(smaller[i]);
      if (plan.arena < choice_.arena_bytes) take(smaller[i], plan);
    }
    return false;
  }

  // What memory.recompute offload does; the planner puts only the largest values to choice. Does it fit?
  bool send_all(BytePlans& bytes) {
    const LayerChoices all(choice_.graph.layers.size(), {RecomputeMode::Offload, {}});
    const PlannedBytes plan = bytes.best_of(all);
    if (plan.host > there_.host.bytes || plan.arena >= choice_.arena_bytes) return false;
    take(all, plan);
    return plan.arena <= budget_;
  }

  // What is no answer of the planner.
  void take(const LayerChoices& layers, const PlannedBytes& plan) {
    choice_.plan = {};
    choice_.layers = layers;
    choice_.arena_bytes = plan.arena;
    choice_.host_bytes = plan.host;
    choice_.model_bytes = 0;
    choice_.plan.seconds = seconds_of(layers);
    choice_.seconds = choice_.graph.micro_batch_seconds + choice_.plan.seconds;
  }

  // What they add to a micro-batch when it is played. Where boundaries may be among what is sent, in the whole program:
  // there sums of residuals are made in place, and what overwrites a boundary waits until it is in host memory.
  double seconds_of(const LayerChoices& layers, bool boundaries_leave = false) const {
    ProgramOptions with = there_;
    with.recompute.assign(static_cast<std::size_t>(there_.model.layers), {});
    for (std::size_t i = 0; i < layers.size(); ++i)
      with.recompute[static_cast<std::size_t>(choice_.graph.layers[i])] = layers[i];
    const Graph graph = boundaries_leave ? build_programs(with).graph("train") : rewritten_graph(with).graph;
    return recompute_seconds(graph, costs_) + row_split_seconds(keeping_.graph, costs_, with.recompute) +
           offload_seconds(graph, costs_, there_.host.overlap);
  }

  // The planner's answers, boundaries stay.
  void search(BytePlans& bytes) {
    choice_.arena_bytes = bytes.of({}).arena;
    fits_ = choice_.arena_bytes <= budget_;
    if (fits_) return;
    const GraphStage graph = choice_.graph;
    const bool beside = graph.stage.link && graph.stage.link->overlap;
    if (!graph.stage.link) {
      search_device(graph, bytes);
    } else if (beside && effort_ == Effort::Quick) {
      search_price(graph, bytes, static_cast<int>(graph.layers.size()), kPrices[0]);
      if (!costs_little()) search_device(graph, bytes);
      choice_.plan.bound_seconds = std::min(choice_.plan.bound_seconds, 0.0);
    } else {
      search_device(graph, bytes);
      search_offload(graph, bytes);
    }
  }

  // Beside what else goes to host memory, and alone, of as many layers as there is room for.
  void search_boundaries(const GraphStage& graph, BytePlans& bytes) {
    search_offload(graph, bytes);
    if (!graph.stage.link->overlap) return;
    GraphStage alone = graph;
    for (LayerKind& kind : alone.stage.kinds) {
      for (LayerTensor& t : kind.tensors) t.offloadable = t.may_leave;
    }
    // With one micro-batch in flight, the last layer's backward comes right behind its forward.
    const int last = graph.stage.in_flight == 1 ? 1 : 0;
    for (int layers = static_cast<int>(graph.layers.size()) - last; layers > 0; layers /= 2) {
      const GraphStage some = with_host_limit(alone, layers, std::numeric_limits<std::int64_t>::max());
      const BudgetSearch::Found found = least_at(some, bytes);
      if (found.bytes.host > there_.host.bytes) continue;
      take_beside(found, some, bytes);
      break;
    }
    prove_beside(graph);
  }

  // Without host memory.
  void search_device(GraphStage graph, BytePlans& bytes) {
    graph.stage.link.reset();
    take(BudgetSearch(graph, bytes, budget_, incumbent_seconds()).run(kSteps), graph);
  }

  void search_offload(const GraphStage& graph, BytePlans& bytes) {
    if (graph.stage.link->overlap) {
      search_beside(graph, bytes);
    } else {
      search_between(graph, bytes);
    }
  }

  // Where copies stand between compute.
  void search_between(const GraphStage& graph, BytePlans& bytes) {
    BudgetSearch search(graph, bytes, budget_, incumbent_seconds());
    const BudgetSearch::Found& found = search.run(kSteps);
    if (found.bytes.host <= there_.host.bytes) {
      take(found, graph);
    } else {
      share_host_memory(graph, bytes);
    }
    // What may go to host memory without a limit bounds the cost of less.
    choice_.plan.bound_seconds = std::min(choice_.plan.bound_seconds, search.bound_seconds(choice_.model_bytes));
  }

  // They change the order of sums: where nothing else fits, and without copies to host memory if that will do.
  void search_row_splits(BytePlans& bytes) {
    const GraphStage graph = stage_of(keeping_, there_, costs_, {.row_splits = true, .boundaries_leave = true});
    search_device(graph, bytes);
    if (!fits_ && graph.stage.link) search_boundaries(graph, bytes);
  }

  // Where copies run beside compute. What they cost follows from all layers together, since these share the link: the
  // planner says which values to send when a layer by itself must not wait and pays for the link, and the program that
  // comes of it is played. Prices and shares of layers differ in how much is sent.
  void search_beside(const GraphStage& graph, BytePlans& bytes) {
    const auto all = static_cast<int>(graph.layers.size());
    for (const double price : kPrices) {
      if (!search_price(graph, bytes, all, price)) return prove_beside(graph);
    }
    for (const double share : kShares) {
      if (costs_little()) break;
      search_price(graph, bytes, std::max(1, static_cast<int>(std::lround(share * all))), kPrices[0]);
    }
    if (const GraphStage best = choice_.graph; fits_ && best.stage.link) {
      BudgetSearch finely(best, bytes, budget_);
      take_beside(finely.run(kSteps), best, bytes);
    }
    prove_beside(graph);
  }

  bool costs_little() const { return fits_ && choice_.plan.seconds <= kLittle * choice_.graph.micro_batch_seconds; }

  // False where nothing fits, however much host memory there is.
  bool search_price(const GraphStage& graph, BytePlans& bytes, int layers, double price) {
    constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
    GraphStage offered = with_spread_host_limit(graph, layers, kAny);
    offered.stage.link->price = price;
    const BudgetSearch::Found any = least_at(offered, bytes);
    if (any.bytes.host <= there_.host.bytes) {
      take_beside(any, offered, bytes);
      return any.fits;
    }
    if (!any.fits && effort_ == Effort::Quick) return false;
    double least = kNever;
    for (int some = layers; some > 0; some /= 2) {
      const std::int64_t share = there_.host.bytes / graph.stage.in_flight / some;
      GraphStage limited = with_spread_host_limit(graph, some, share);
      limited.stage.link->price = price;
      const double seconds = take_beside(least_at(limited, bytes), limited, bytes);
      if (least < kNever && seconds >= least) break;
      least = std::min(least, seconds);
    }
    return any.fits;
  }

  BudgetSearch::Found least_at(const GraphStage& graph, BytePlans& bytes) const {
    return BudgetSearch(graph, bytes, budget_).run(kShareSteps);
  }

  // At what it costs when it is played, in the order of its layers or spread, if it is the best. What that is; kNever
  // where it does not fit, or nothing is sent.
  double take_beside(BudgetSearch::Found found, const GraphStage& graph, BytePlans& bytes) {
    double least = kNever;
    if (found.plan.layers.empty() || found.bytes.host == 0) return least;
    const bool boundaries_leave = may_send_boundaries(graph.stage);
    if (found.fits && found.plan.level == RecomputeLevel::Layers) {
      BudgetSearch::Found spread = found;
      spread.plan = recompute_plan_of(graph.stage, spread_choices(graph.stage, found.plan.layers));
      const LayerChoices layers = layer_recompute(graph, spread.plan);
      spread.bytes = bytes.of(layers);
      if (spread.bytes.arena <= budget_) {
        spread.model_bytes = std::max(found.model_bytes, spread.plan.peak_bytes);
        spread.plan.seconds = least = seconds_of(layers, boundaries_leave);
        take(spread, graph);
      }
    }
    found.plan.seconds = seconds_of(layer_recompute(graph, found.plan), boundaries_leave);
    take(found, graph);
    return found.fits ? std::min(least, found.plan.seconds) : least;
  }

  // Backward begins when all copies to the host, c, have ended, and then takes at least its compute. So a micro-batch
  // takes at least c - s more than the rest of it, where s is forward with what backward only communicates, and at
  // least nothing more, so at least any mean of both: p (c - s) with p in [0, 1]. The planner bounds r + p c, with r of
  // making again.
  void prove_beside(const GraphStage& graph) {
    double bound = 0;
    for (const double price : kBoundPrices) bound = std::max(bound, bound_at(graph, price));
    choice_.plan.bound_seconds = std::min(choice_.plan.seconds, bound);
  }

  double bound_at(const GraphStage& graph, double price) const {
    GraphStage priced = graph;
    HostLink& link = *priced.stage.link;
    link = {link.to_host_bytes_per_second / price, std::numeric_limits<double>::infinity(),
            link.latency_seconds * price / 2, false};
    const RecomputeAnswer answer = KnownAnswers::of(priced.stage)->plan(choice_.model_bytes);
    if (!std::holds_alternative<RecomputePlan>(answer)) return 0;
    const double beyond = std::get<RecomputePlan>(answer).bound_seconds - price * graph.beside_copies_seconds;
    // What is communicated again only, no copy waits for: that much less of r.
    return graph.communicates_again() ? beyond / (1 + price) : beyond;
  }

  void share_host_memory(const GraphStage& graph, BytePlans& bytes) {
    for (std::int64_t layers = std::ssize(graph.layers); layers > 0; layers /= 2) {
      const std::int64_t share = there_.host.bytes / graph.stage.in_flight / layers;
      const GraphStage limited = with_host_limit(graph, static_cast<int>(layers), share);
      take(BudgetSearch(limited, bytes, budget_, incumbent_seconds()).run(kShareSteps), limited);
    }
  }

  double incumbent_seconds() const { return fits_ ? choice_.plan.seconds : kNever; }

  // If it is the best.
  void take(const BudgetSearch::Found& found, const GraphStage& graph) {
    const bool better = found.fits ? !fits_ || found.plan.seconds < choice_.plan.seconds
                                   : !fits_ && found.bytes.arena < choice_.arena_bytes;
    if (!better || found.bytes.host > there_.host.bytes) return;
    fits_ = found.fits;
    choice_.graph = graph;
    choice_.plan = found.plan;
    choice_.layers = found.plan.layers.empty() ? LayerChoices{} : layer_recompute(graph, found.plan);
    choice_.arena_bytes = found.bytes.arena;
    choice_.host_bytes = found.bytes.host;
    choice_.model_bytes = found.model_bytes;
    choice_.seconds = graph.micro_batch_seconds + found.plan.seconds;
  }

  ProgramOptions there_;
  const CostModel& costs_;
  KeepingGraph keeping_;
  std::int64_t budget_;
  Effort effort_;
  StageChoice choice_;
  bool fits_ = false;
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

}  // namespace

GraphStage stage_graph(const ProgramOptions& there, const CostModel& costs) {
  return stage_of(keeping_graph(there), there, costs);
}

double row_split_seconds(const ProgramOptions& there, const CostModel& costs) {
  return has_row_splits(there.recompute) ? row_split_seconds(keeping_graph(there).graph, costs, there.recompute) : 0;
}

StageChoice choose_stage_recompute(const ProgramOptions& options, int stage, const CostModel& costs,
                                   std::int64_t arena_bytes) {
  StageSearch search(at_stage(options, stage), costs, arena_bytes, Effort::Quick);
  search.run(true);
  return search.take();
}

RecomputeChoice choose_recompute(const ProgramOptions& options, const CostModel& costs, std::int64_t arena_bytes,
                                 bool to_the_least, Effort effort) {
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
      StageSearch search(at_stage(options, stage), costs, arena_bytes, effort);
      result.fits = search.run(to_the_least) && result.fits;
      result.stages.push_back(search.take());
      const double slots = static_cast<double>(options.micro_batches + options.mesh.pipeline - 1);
      result.step_seconds = std::max(result.step_seconds, slots * result.stages.back().seconds);
    }
    result.kind_of.push_back(entry->second);
    const StageChoice& choice = result.of_stage(stage);
    if (choice.layers.empty()) continue;
    const std::vector<int> layers = layers_at(options, stage, cuts);
    for (std::size_t i = 0; i < layers.size(); ++i)
      result.layers[static_cast<std::size_t>(layers[i])] = choice.layers[i];
  }
  const bool nothing = std::all_of(result.layers.begin(), result.layers.end(),
                                   [](const LayerRecompute& l) { return l == LayerRecompute{}; });
  if (nothing) result.layers.clear();
  return result;
}

}  // namespace plimsoll
