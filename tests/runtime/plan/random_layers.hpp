#pragma once
// Random kinds of layers for the tests of the recompute planner, and a second, naive account of what a keep-set costs:
// written from the words of recompute_layer.hpp, it lists for every event what is alive.

#include <algorithm>
#include <functional>
#include <random>
#include <set>

#include "runtime/plan/recompute_layer.hpp"

namespace plimsoll {

// `tensors` besides the boundary. Costs are whole seconds, so that sums are exact.
inline LayerKind random_layer(std::mt19937& random, int tensors) {
  const auto pick = [&random](int low, int high) { return low + static_cast<int>(random() % (high - low + 1)); };
  LayerKind kind;
  kind.name = "random";
  kind.tensors.push_back({.name = "x", .bytes = pick(1, 8), .always_kept = true});
  for (int v = 1; v <= tensors; ++v) {
    LayerTensor t{.name = "t" + std::to_string(v), .bytes = pick(1, 30)};
    std::set<int> from{pick(std::max(0, v - 3), v - 1)};
    if (pick(0, 1) == 0) from.insert(pick(0, v - 1));
    t.made_from.assign(from.begin(), from.end());
    t.seconds = pick(1, 9);
    t.collective_seconds = pick(0, 3) == 0 ? pick(1, 5) : 0;
    t.workspace_bytes = pick(0, 2) == 0 ? pick(1, 10) : 0;
    t.replayable = pick(0, 9) > 0;
    kind.tensors.push_back(t);
  }
  kind.tensors.push_back({.name = "next", .bytes = kind.tensors[0].bytes, .made_from = {tensors}, .seconds = 2});
  kind.output = tensors + 1;
  kind.gradients.push_back({"d_next", kind.tensors[0].bytes});
  for (int v = tensors; v >= 0; --v) {
    const int made = static_cast<int>(kind.gradients.size());
    kind.gradients.push_back({"d" + std::to_string(v), kind.tensors[v].bytes});
    BackwardStep step{.name = "step" + std::to_string(v), .seconds = 1, .makes = {made}, .uses = {made - 1}};
    if (v == 0 || pick(0, 4) > 0) step.reads.push_back(v);
    if (v > 1 && pick(0, 3) == 0) step.reads.push_back(pick(1, v - 1));
    if (pick(0, 4) == 0) step.uses.push_back(pick(0, made - 1));
    if (pick(0, 4) == 0) step.workspace_bytes = pick(1, 10);
    kind.steps.push_back(step);
  }
  return kind;
}

struct NaiveCost {
  std::int64_t saved = 0, forward_peak = 0, backward_peak = 0;
  double seconds = 0;
};

inline std::optional<NaiveCost> naive_cost(const LayerKind& kind, const std::set<int>& keep) {
  struct Event {
    std::set<int> touches, gradients;
    std::int64_t workspace = 0;
  };
  const int count = static_cast<int>(kind.tensors.size());
  NaiveCost cost;
  for (const int v : keep) cost.saved += kind.tensors[v].bytes;
  for (int now = 0; now < count; ++now) {  // forward
    std::int64_t live = kind.tensors[now].workspace_bytes;
    for (int v = 0; v <= now; ++v) {
      if (kind.saved_apart && keep.contains(v)) continue;
      bool later = v == now || keep.contains(v) || v == kind.output;
      for (int w = now; w < count; ++w) later = later || std::ranges::count(kind.tensors[w].made_from, v) > 0;
      live += later ? kind.tensors[v].bytes : 0;
    }
    cost.forward_peak = std::max(cost.forward_peak, live);
  }
  std::vector<Event> events(1);
  std::set<int> there = keep, used_gradients;
  for (std::size_t g = 0; g < kind.gradients.size(); ++g) {
    const auto makes = [g](const BackwardStep& s) { return std::ranges::count(s.makes, static_cast<int>(g)) > 0; };
    if (std::ranges::none_of(kind.steps, makes)) events[0].gradients.insert(static_cast<int>(g));
  }
  events[0].touches = keep;
  bool possible = true;
  const std::function<void(int)> get = [&](int v) {
    if (there.contains(v)) return;
    const LayerTensor& t = kind.tensors[v];
    for (const int u : t.made_from) get(u);
    possible = possible && t.replayable && !t.made_from.empty();
    there.insert(v);
    cost.seconds += t.seconds + t.collective_seconds;
    Event event{.touches = {t.made_from.begin(), t.made_from.end()}, .gradients = {}, .workspace = t.workspace_bytes};
    event.touches.insert(v);
    events.push_back(event);
  };
  for (const BackwardStep& step : kind.steps) {
    for (const int v : step.reads) get(v);
    Event event{.touches = {step.reads.begin(), step.reads.end()},
                .gradients = {step.makes.begin(), step.makes.end()},
                .workspace = step.workspace_bytes};
    event.gradients.insert(step.uses.begin(), step.uses.end());
    used_gradients.insert(step.uses.begin(), step.uses.end());
    events.push_back(event);
  }
  if (!possible) return std::nullopt;
  const auto alive = [&events](std::size_t now, int id, std::set<int> Event::*of, bool to_end) {
    bool before = false, after = to_end;
    for (std::size_t e = 0; e <= now; ++e) before = before || (events[e].*of).contains(id);
    for (std::size_t e = now; e < events.size(); ++e) after = after || (events[e].*of).contains(id);
    return before && after;
  };
  for (std::size_t now = 0; now < events.size(); ++now) {
    std::int64_t live = events[now].workspace;
    for (int v = 0; v < count; ++v) {
      const bool apart = kind.saved_apart && keep.contains(v);
      live += !apart && alive(now, v, &Event::touches, false) ? kind.tensors[v].bytes : 0;
    }
    for (int g = 0; g < static_cast<int>(kind.gradients.size()); ++g) {
      live += alive(now, g, &Event::gradients, !used_gradients.contains(g)) ? kind.gradients[g].bytes : 0;
    }
    cost.backward_peak = std::max(cost.backward_peak, live);
  }
  return cost;
}

// Every keep-set that is possible.
inline std::vector<NaiveCost> naive_costs(const LayerKind& kind) {
  std::vector<NaiveCost> costs;
  const int count = static_cast<int>(kind.tensors.size());
  for (int mask = 0; mask < 1 << (count - 1); ++mask) {  // the output is never kept
    std::set<int> keep;
    for (int v = 0; v < count - 1; ++v) {
      if ((mask >> v & 1) != 0) keep.insert(v);
    }
    if (!keep.contains(0)) continue;
    if (const auto cost = naive_cost(kind, keep)) costs.push_back(*cost);
  }
  return costs;
}

}  // namespace plimsoll
