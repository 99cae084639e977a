#include "launch/known_plans.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <span>
#include <tuple>

namespace plimsoll {
namespace {

constexpr std::size_t kKnownRanks = 64;

// What a byte plan follows from: everything but `recompute`, what only searches and reports look at, and, where nothing
// is cut by what it takes, what the machine is like. A new field does not compile before it is named here.
auto plan_fields(const ProgramOptions& o) {
  const auto& [model, dtype, fp8, fused_heads, sequence, micro_batch, threads, mesh, rank, zero, sequence_parallel,
               tensor_chunks, schedule, chunks, pipeline_chunks, pipeline_choice, stage_layers, micro_batches, shares,
               state_shares, bucket_bytes, unit_bucket_bytes, unit_buckets_by_links, hierarchical, gather_bytes,
               gather_by_links, prefetch, planned_buckets, planned_gathers, costs, links, shard_choice, logits_bytes,
               recompute, host, row_splits, optimizer, train, evaluate, logits, cache_positions] = o;
  const bool by_costs = (zero == 0 && mesh.data > 1) || gather_by_links || unit_buckets_by_links;
  return std::tuple_cat(
      std::tie(model, dtype, fp8, fused_heads, sequence, micro_batch, threads, mesh, rank, zero, sequence_parallel,
               tensor_chunks, schedule, chunks, pipeline_chunks, stage_layers, micro_batches, shares, state_shares,
               bucket_bytes, unit_bucket_bytes, unit_buckets_by_links, hierarchical, gather_bytes, gather_by_links,
               prefetch, planned_buckets, planned_gathers, logits_bytes, optimizer, train, evaluate, logits,
               cache_positions),
      std::tuple(by_costs ? costs.get() : nullptr));
}

// What the layers of this rank recompute; empty: nothing.
std::vector<LayerRecompute> recompute_here(const ProgramOptions& o) {
  std::vector<LayerRecompute> here;
  if (o.recompute.empty()) return here;
  for (const int layer : layers_at(o, coordinates(o.mesh, o.rank).pipeline, program_cuts(o)))
    here.push_back(o.recompute[static_cast<std::size_t>(layer)]);
  const bool nothing =
      std::all_of(here.begin(), here.end(), [](const LayerRecompute& l) { return l == LayerRecompute{}; });
  if (nothing) here.clear();
  return here;
}

// In how many blocks of rows each layer runs, here and in evaluation.
std::vector<std::int64_t> rows_of(const ProgramOptions& o) {
  std::vector<std::int64_t> rows;
  for (const LayerRecompute& layer : recompute_here(o)) rows.push_back(layer.rows);
  if (std::all_of(rows.begin(), rows.end(), [](std::int64_t r) { return r == 1; })) rows.clear();
  return rows;
}

// Of one rank.
class KnownRank {
 public:
  explicit KnownRank(const ProgramOptions& there) : there_(there) {}
  bool is_of(const ProgramOptions& there) const { return plan_fields(there_) == plan_fields(there); }

  PlannedBytes bytes(const ProgramOptions& there, std::int64_t enough_bytes, const Graph* keeping) {
    const std::lock_guard lock(mutex_);
    std::vector<LayerRecompute> chosen = recompute_here(there);
    for (const Plan& plan : plans_) {
      if (plan.enough_bytes == enough_bytes && plan.chosen == chosen) return plan.bytes;
    }
    plans_.push_back({std::move(chosen), enough_bytes, plan(there, enough_bytes, keeping)});
    return plans_.back().bytes;
  }

 private:
  // Programs beside training recompute nothing: their bytes are those of the first plan with the same blocks of rows.
  PlannedBytes plan(const ProgramOptions& there, std::int64_t enough_bytes, const Graph* keeping) {
    const std::pair key{enough_bytes, rows_of(there)};
    const auto others = others_.find(key);
    if (others != others_.end()) {
      ProgramOptions training = there;
      training.evaluate = training.logits = false;
      training.cache_positions = 0;
      const MemoryPlan plan = plan_of(training, enough_bytes, keeping);
      const auto& [persistent, arena, least] = others->second;
      if (plan.persistent_bytes == persistent)  // or else they have some that training has not
        return {std::max(arena, plan.total_bytes), std::max(least, least_bytes(plan)), plan.host_bytes};
    }
    const MemoryPlan plan = plan_of(there, enough_bytes, keeping);
    if (there.train && plan.programs.size() > 1) {
      Others& known = others_[key] = {plan.persistent_bytes, 0, 0};
      for (const ProgramLayout& program : std::span(plan.programs).subspan(1)) {
        known.arena = std::max(known.arena, plan.persistent_bytes + program.step_bytes);
        known.least = std::max(known.least, plan.persistent_bytes + program.max_live_bytes);
      }
    }
    return {plan.total_bytes, least_bytes(plan), plan.host_bytes};
  }

  struct Others {
    std::int64_t persistent = 0, arena = 0, least = 0;
  };
  struct Plan {
    std::vector<LayerRecompute> chosen;
    std::int64_t enough_bytes;
    PlannedBytes bytes;
  };

  ProgramOptions there_;
  std::mutex mutex_;
  std::vector<Plan> plans_;
  std::map<std::pair<std::int64_t, std::vector<std::int64_t>>, Others> others_;  // by enough_bytes and rows
};

}  // namespace

PlannedBytes known_bytes(const ProgramOptions& options, std::int64_t enough_bytes, const Graph* keeping) {
  static Remembered<KnownRank, ProgramOptions> ranks(kKnownRanks);
  return ranks.of(options)->bytes(options, enough_bytes, keeping);
}

std::int64_t least_bytes(const MemoryPlan& plan) {
  std::int64_t live = 0;
  for (const ProgramLayout& program : plan.programs) live = std::max(live, program.max_live_bytes);
  return plan.persistent_bytes + live;
}

std::int64_t planned_bytes(const ProgramOptions& options) { return plan_of(options).total_bytes; }

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

}  // namespace plimsoll
