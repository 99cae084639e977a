#pragma once
// The recompute planner models memory, so what of its answers fits a rank is found by narrowing its budget down: the
// byte plans of its answers decide (launch/recompute_choice.hpp). One stage, with what its planner is asked for.

#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "launch/known_plans.hpp"
#include "runtime/plan/recompute_graph.hpp"

namespace plimsoll {

// Budgets of the planner that a search tells apart: so many in the budget of the arena, or from the least that anything
// fits into to keeping everything, whichever is less.
constexpr std::int64_t kSteps = 256;
constexpr std::int64_t kShareSteps = 32;  // with shares of host memory

// Byte plans of one stage, as good as it takes to know whether they are within `arena_bytes`.
class BytePlans {
 public:
  // `keeping`: keeping_graph(there), which outlives it; `layers`: those of the stage.
  BytePlans(const ProgramOptions& there, const Graph& keeping, const std::vector<int>& layers, std::int64_t arena_bytes)
      : there_(there), keeping_(keeping), layers_(layers), budget_(arena_bytes) {}
  PlannedBytes of(const std::vector<LayerRecompute>& chosen) { return plan(chosen, budget_); }
  PlannedBytes best_of(const std::vector<LayerRecompute>& chosen) { return plan(chosen, 0); }
  // What no placement can do without, whatever the budget is.
  PlannedBytes least_of(const std::vector<LayerRecompute>& chosen) { return plan(chosen, 1); }

 private:
  PlannedBytes plan(const std::vector<LayerRecompute>& chosen, std::int64_t enough_bytes);

  ProgramOptions there_;
  const Graph& keeping_;
  std::vector<int> layers_;
  std::int64_t budget_;
};

// A planner with its answers. They are kept for all searches of the process: layouts of a cluster often differ in what
// lies beside the activations, not in the layers of a stage, and the budgets that are tried follow from the stage.
class KnownAnswers {
 public:
  explicit KnownAnswers(const RecomputeStage& stage) : planner_(stage) {}
  bool is_of(const RecomputeStage& stage) const { return planner_.stage() == stage; }
  static std::shared_ptr<KnownAnswers> of(const RecomputeStage& stage);

  const RecomputeStage& stage() const { return planner_.stage(); }
  RecomputeAnswer plan(std::int64_t model_bytes);

 private:
  std::mutex mutex_;
  RecomputePlanner planner_;
  std::map<std::int64_t, RecomputeAnswer> answers_;
};

// The plans of one stage that a planner offers under all its budgets.
class BudgetSearch {
 public:
  // `graph` and `bytes` outlive it. `incumbent_seconds`: of a plan that fits; only what is cheaper counts, and has its
  // bytes planned.
  BudgetSearch(const GraphStage& graph, BytePlans& bytes, std::int64_t arena_bytes,
               double incumbent_seconds = std::numeric_limits<double>::infinity())
      : graph_(graph),
        bytes_(bytes),
        budget_(arena_bytes),
        incumbent_seconds_(incumbent_seconds),
        planner_(KnownAnswers::of(graph.stage)) {}

  // What was found: the cheapest that fits, or, where none does, the smallest; no layers where nothing counts.
  struct Found {
    bool fits = false;
    RecomputePlan plan;
    PlannedBytes bytes;
    std::int64_t model_bytes = 0;
  };

  // `steps`: budgets of the planner that are told apart.
  const Found& run(std::int64_t steps);

  // Nothing costs less within those bytes of the model.
  double bound_seconds(std::int64_t model_bytes);

 private:
  // What does not fit, with the values that it keeps.
  struct Misfit {
    std::vector<LayerRecompute> chosen;
    Found found;
  };

  void search(std::int64_t steps);
  void narrow(std::int64_t low, std::int64_t high, std::int64_t width, std::int64_t certain);
  std::int64_t least_budget();
  RecomputePlan full() const;
  bool attempt(std::int64_t model_bytes);
  bool attempt(RecomputePlan plan, std::int64_t model_bytes);
  void find_least();

  const GraphStage& graph_;
  BytePlans& bytes_;
  std::int64_t budget_;
  double incumbent_seconds_;
  std::shared_ptr<KnownAnswers> planner_;
  std::int64_t beside_ = 0;   // of the last byte plan, what lies beside the planner's model
  std::int64_t certain_ = 0;  // a guess that is further from the budget is as good as a plan
  std::int64_t least_certain_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t guessed_ = 0;  // the largest budget of the planner that was taken to fit
  Found found_;
  std::vector<Misfit> misfits_;
};

}  // namespace plimsoll
