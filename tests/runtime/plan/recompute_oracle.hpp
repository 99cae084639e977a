#pragma once
// The cheapest schedule of recomputation at all, for a few layers with one micro-batch: a shortest path over (place in
// the step, set of tensors that are alive). Unlike the planner it may make any tensor at any time in backward, as often
// as it likes, also the input of a layer from the layer before, and free any tensor at any time.
//
// Bytes are counted as runtime/plan/recompute_layer.hpp says: what is alive while a tensor is made or a step runs, its
// workspace, and the gradients that live across the place.

#include <limits>
#include <queue>

#include "runtime/plan/recompute_plan.hpp"

namespace plimsoll {

class RecomputeOracle {
 public:
  // At most about 18 tensors in all: the output of a layer is the boundary of the next. No offload.
  explicit RecomputeOracle(const RecomputeStage& stage) : stage_(stage) {
    int base = 0;
    for (const int kind : stage.layers) {
      const LayerKind& k = stage.kinds[static_cast<std::size_t>(kind)];
      first_.push_back(base);
      // The output takes the place of the next layer's boundary.
      for (std::size_t v = base == 0 ? 0 : 1; v < k.tensors.size(); ++v) add_tensor(k, static_cast<int>(v), base);
      base += static_cast<int>(k.tensors.size()) - 1;
    }
  }

  // Picoseconds beyond what must be done anyway; nullopt: no schedule fits.
  std::optional<std::int64_t> cheapest(std::int64_t budget_bytes) const {
    std::vector<std::int64_t> cost(std::size_t{1} << tensors_.size(), kNever);
    cost[1] = 0;  // the boundary of the first layer
    for (std::size_t v = 1; v < tensors_.size(); ++v) cost = forward(cost, v, budget_bytes);
    cost = head(cost, budget_bytes);
    for (auto layer = std::ssize(stage_.layers) - 1; layer >= 0; --layer) {
      const LayerKind& k = kind(layer);
      for (std::size_t s = 0; s < k.steps.size(); ++s) {
        between_steps(cost, budget_bytes - gradients(k, s, false));
        cost = step(cost, layer, s, budget_bytes);
      }
    }
    const std::int64_t best = *std::min_element(cost.begin(), cost.end());
    return best == kNever ? std::nullopt : std::optional(best);
  }

 private:
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  using Mask = std::size_t;
  struct Tensor {
    std::int64_t bytes, workspace, ps;
    Mask from;
    bool can_be_made;  // again
  };

  const LayerKind& kind(std::ptrdiff_t layer) const {
    return stage_.kinds[static_cast<std::size_t>(stage_.layers[static_cast<std::size_t>(layer)])];
  }
  void add_tensor(const LayerKind& k, int v, int base) {
    const LayerTensor& t = k.tensors[static_cast<std::size_t>(v)];
    Mask from = 0;
    for (const int u : t.made_from) from |= Mask{1} << (base + u);
    tensors_.push_back({t.bytes, t.workspace_bytes, picoseconds(t.seconds + t.collective_seconds), from,
                        t.replayable && !t.made_from.empty()});
  }
  std::int64_t bytes(Mask mask) const {
    std::int64_t sum = 0;
    for (std::size_t v = 0; v < tensors_.size(); ++v) sum += (mask >> v & 1) != 0 ? tensors_[v].bytes : 0;
    return sum;
  }

  // Frees cost nothing.
  void free_any(std::vector<std::int64_t>& cost) const {
    for (std::size_t v = 0; v < tensors_.size(); ++v) {
      for (Mask mask = 0; mask < cost.size(); ++mask) {
        if ((mask >> v & 1) != 0) cost[mask ^ Mask{1} << v] = std::min(cost[mask ^ Mask{1} << v], cost[mask]);
      }
    }
  }

  std::vector<std::int64_t> forward(std::vector<std::int64_t> cost, std::size_t v, std::int64_t budget) const {
    free_any(cost);
    std::vector<std::int64_t> next(cost.size(), kNever);
    const Tensor& t = tensors_[v];
    for (Mask mask = 0; mask < cost.size(); ++mask) {
      if (cost[mask] == kNever || (mask & t.from) != t.from) continue;
      const Mask with = mask | Mask{1} << v;
      if (bytes(with) + t.workspace <= budget) next[with] = std::min(next[with], cost[mask]);
    }
    return next;
  }

  // What follows the last layer takes its output over.
  std::vector<std::int64_t> head(std::vector<std::int64_t> cost, std::int64_t budget) const {
    free_any(cost);
    const Mask output = Mask{1} << (tensors_.size() - 1);
    for (Mask mask = 0; mask < cost.size(); ++mask) {
      if ((mask & output) != 0 || bytes(mask) + stage_.head_bytes > budget) cost[mask] = kNever;
    }
    return cost;
  }

  // Gradients that live at step s of a layer, or (at_step false) between the one before and it.
  static std::int64_t gradients(const LayerKind& k, std::size_t s, bool at_step) {
    const auto step_of = [&](std::size_t g, std::vector<int> BackwardStep::*list, bool first) {
      std::ptrdiff_t found = -1;
      for (std::size_t i = 0; i < k.steps.size(); ++i) {
        const auto& all = k.steps[i].*list;
        const bool here = std::find(all.begin(), all.end(), static_cast<int>(g)) != all.end();
        if (here && (found < 0 || !first)) found = static_cast<std::ptrdiff_t>(i);
      }
      return found;
    };
    const auto now = static_cast<std::ptrdiff_t>(s);
    std::int64_t sum = 0;
    for (std::size_t g = 0; g < k.gradients.size(); ++g) {
      const std::ptrdiff_t born = step_of(g, &BackwardStep::makes, true), used = step_of(g, &BackwardStep::uses, false);
      const bool begun = at_step ? born <= now : born < now;
      sum += begun && (used < 0 || used >= now) ? k.gradients[g].bytes : 0;
    }
    return sum;
  }

  // Makes tensors and frees others until nothing gets cheaper.
  void between_steps(std::vector<std::int64_t>& cost, std::int64_t room) const {
    using Entry = std::pair<std::int64_t, Mask>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    for (Mask mask = 0; mask < cost.size(); ++mask) {
      if (cost[mask] != kNever) queue.emplace(cost[mask], mask);
    }
    const auto reach = [&](Mask mask, std::int64_t ps) {
      if (ps >= cost[mask]) return;
      cost[mask] = ps;
      queue.emplace(ps, mask);
    };
    while (!queue.empty()) {
      const auto [ps, mask] = queue.top();
      queue.pop();
      if (ps > cost[mask]) continue;
      const std::int64_t alive = bytes(mask);
      for (std::size_t v = 0; v < tensors_.size(); ++v) {
        const Tensor& t = tensors_[v];
        const Mask bit = Mask{1} << v;
        if ((mask & bit) != 0) {
          reach(mask ^ bit, ps);
        } else if (t.can_be_made && (mask & t.from) == t.from && alive + t.bytes + t.workspace <= room) {
          reach(mask | bit, ps + t.ps);
        }
      }
    }
  }

  std::vector<std::int64_t> step(const std::vector<std::int64_t>& cost, std::ptrdiff_t layer, std::size_t s,
                                 std::int64_t budget) const {
    const LayerKind& k = kind(layer);
    Mask reads = 0;
    for (const int v : k.steps[s].reads) reads |= Mask{1} << (first_[static_cast<std::size_t>(layer)] + v);
    const std::int64_t room = budget - gradients(k, s, true) - k.steps[s].workspace_bytes;
    std::vector<std::int64_t> next(cost.size(), kNever);
    for (Mask mask = 0; mask < cost.size(); ++mask) {
      if (cost[mask] != kNever && (mask & reads) == reads && bytes(mask) <= room) next[mask] = cost[mask];
    }
    return next;
  }

  const RecomputeStage& stage_;
  std::vector<Tensor> tensors_;
  std::vector<int> first_;  // the boundary of each layer
};

}  // namespace plimsoll
