#include "runtime/plan/recompute_baselines.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// Choices by layer, of kinds that several layers share.
RecomputePlan plan_of(const RecomputeStage& stage, const std::vector<const LayerOption*>& options) {
  std::vector<LayerChoice> choices;
  for (const LayerOption* option : options) choices.push_back({*option, static_cast<int>(choices.size()), false});
  return recompute_plan_of(stage, std::move(choices));
}

// As recompute_plan_of, without building a plan.
std::int64_t peak_of(const RecomputeStage& stage, const std::vector<const LayerOption*>& options) {
  std::vector<RecomputeItem> items;
  for (const LayerOption* option : options) items.push_back({1, option->saved_bytes, option->peak_bytes(), 0});
  return items_peak_bytes(items, stage.in_flight, stage.head_bytes, stage.kinds[stage.layers.front()].saved_apart);
}

// The fates of a kind, simulated once.
class Simulated {
 public:
  explicit Simulated(const LayerKind& kind) : kind_(kind) {}
  const LayerOption* of(const std::vector<Fate>& fates) {
    const auto [entry, first_time] = known_.try_emplace(fates);
    if (first_time) entry->second = simulate_layer(kind_, fates, 1, nullptr);
    return entry->second ? &*entry->second : nullptr;
  }

 private:
  const LayerKind& kind_;
  std::map<std::vector<Fate>, std::optional<LayerOption>> known_;
};

bool less_per_byte(double seconds, std::int64_t bytes, double other_seconds, std::int64_t other_bytes) {
  return seconds * static_cast<double>(other_bytes) < other_seconds * static_cast<double>(bytes);
}

}  // namespace

std::optional<RecomputePlan> recompute_first_layers(const RecomputeStage& stage, std::int64_t budget_bytes) {
  std::vector<LayerOption> all, none;
  for (const LayerKind& kind : stage.kinds) {
    all.push_back(keep_everything(kind));
    none.push_back(keep_nothing(kind));
    none.back().seconds = kind.forward_seconds();
  }
  std::vector<const LayerOption*> options;
  for (const int kind : stage.layers) options.push_back(&all[kind]);
  for (std::size_t k = 0;; ++k) {
    if (peak_of(stage, options) <= budget_bytes) return plan_of(stage, options);
    if (k == options.size()) return std::nullopt;
    options[k] = &none[stage.layers[k]];
  }
}

std::optional<RecomputePlan> recompute_uniform(const RecomputeStage& stage, std::int64_t budget_bytes) {
  std::set<std::string> names;
  for (const LayerKind& kind : stage.kinds) {
    const std::vector<bool> needed = backward_needs(kind);
    for (std::size_t v = 0; v < needed.size(); ++v) {
      if (needed[v] && !kind.tensors[v].always_kept && kind.tensors[v].replayable) names.insert(kind.tensors[v].name);
    }
  }
  require(names.size() <= 20, ErrorKind::Internal, "uniform recompute: {} tensors to choose from", names.size());
  std::optional<RecomputePlan> best;
  for (std::uint32_t mask = 0; mask < 1U << names.size(); ++mask) {
    std::vector<LayerOption> of_kind;
    for (const LayerKind& kind : stage.kinds) {
      std::vector<Fate> fates = keep_everything(kind).fates;
      for (std::size_t v = 0; v < fates.size(); ++v) {
        const auto at = names.find(kind.tensors[v].name);
        if (at != names.end() && (mask >> std::distance(names.begin(), at) & 1U) != 0) fates[v] = Fate::Drop;
      }
      if (auto option = simulate_layer(kind, fates, 1, nullptr)) of_kind.push_back(*std::move(option));
    }
    if (of_kind.size() < stage.kinds.size()) continue;
    std::vector<const LayerOption*> options;
    double seconds = 0;
    for (const int kind : stage.layers) {
      options.push_back(&of_kind[kind]);
      seconds += of_kind[kind].seconds;
    }
    if (best && seconds >= best->seconds) continue;
    if (peak_of(stage, options) <= budget_bytes) best = plan_of(stage, options);
  }
  return best;
}

std::optional<RecomputePlan> recompute_greedy(const RecomputeStage& stage, std::int64_t budget_bytes) {
  std::vector<Simulated> kinds(stage.kinds.begin(), stage.kinds.end());
  std::vector<const LayerOption*> options;
  for (const int kind : stage.layers) options.push_back(kinds[kind].of(keep_everything(stage.kinds[kind]).fates));
  while (peak_of(stage, options) > budget_bytes) {
    std::size_t layer = 0;
    const LayerOption* best = nullptr;
    for (std::size_t l = 0; l < options.size(); ++l) {
      std::vector<Fate> fates = options[l]->fates;
      for (Fate& fate : fates) {
        if (fate != Fate::Keep) continue;
        fate = Fate::Drop;
        const LayerOption* option = kinds[stage.layers[l]].of(fates);
        fate = Fate::Keep;
        if (option == nullptr || option->saved_bytes >= options[l]->saved_bytes) continue;
        if (best == nullptr ||
            less_per_byte(option->seconds - options[l]->seconds, options[l]->saved_bytes - option->saved_bytes,
                          best->seconds - options[layer]->seconds, options[layer]->saved_bytes - best->saved_bytes)) {
          best = option;
          layer = l;
        }
      }
    }
    if (best == nullptr) return std::nullopt;
    options[layer] = best;
  }
  return plan_of(stage, options);
}

}  // namespace plimsoll
