#include "launch/recompute_least.hpp"

#include <algorithm>
#include <array>
#include <set>

namespace plimsoll {
namespace {

// Layers of all byte plans of a search, but not less than so many plans: a fraction of a second.
constexpr std::int64_t kMostLayers = 1000, kFewestPlans = 24;
// Stages with at most so many have each of their layers changed, and pairs of values.
constexpr std::size_t kFewLayers = 4;

class Descent {
 public:
  Descent(const Graph& keeping, LayerChoices start, const std::function<std::int64_t(const LayerChoices&)>& least_bytes)
      : least_bytes_(least_bytes),
        now_(std::move(start)),
        plans_left_(std::max(kFewestPlans, kMostLayers / std::max<std::int64_t>(1, std::ssize(now_)))) {
    for (const auto& [layer, values] : recomputable_values(keeping)) {
      values_.emplace_back();
      for (const RecomputableValue& v : values) values_.back().push_back(v.name);
      for (const RecomputeMode mode : {RecomputeMode::Full, RecomputeMode::Selective}) {
        std::vector<std::string>& names = kept_by_[mode == RecomputeMode::Full ? 0 : 1].emplace_back();
        const std::vector<ValueId> kept = kept_values(keeping, values, mode);
        for (const RecomputableValue& v : values) {
          if (std::find(kept.begin(), kept.end(), v.value) != kept.end()) names.push_back(v.name);
        }
      }
    }
    for (const LayerRecompute& layer : now_) {
      if (std::find(seen_.begin(), seen_.end(), layer) == seen_.end()) seen_.push_back(layer);
    }
  }

  std::vector<LayerChoices> run() {
    if (now_.empty()) return {};
    now_bytes_ = least_bytes_(now_);
    const std::vector<std::vector<std::size_t>> groups = groups_of(now_.size());
    // Around and around, until a whole round brings nothing.
    for (std::size_t fruitless = 0, at = 0; fruitless < groups.size() && plans_left_ > 0; ++at)
      fruitless = change(groups[at % groups.size()]) ? 0 : fruitless + 1;
    return std::move(path_);
  }

 private:
  static std::vector<std::vector<std::size_t>> groups_of(std::size_t layers) {
    std::vector<std::vector<std::size_t>> groups;
    const auto add = [&](std::size_t first, std::size_t end) {
      std::vector<std::size_t>& group = groups.emplace_back();
      for (std::size_t l = first; l < end; ++l) group.push_back(l);
    };
    // The last layers are live where the head is, and their backward is the first.
    for (std::size_t l = layers; l-- > 0;) {
      if (layers <= kFewLayers || l < 2 || l + 2 >= layers) add(l, l + 1);
    }
    if (layers > 3) add(1, layers - 1);
    if (layers > 1) add(0, layers);
    return groups;
  }

  // Is there a change of these layers that helps? Several may.
  bool change(const std::vector<std::size_t>& group) {
    const std::int64_t before = now_bytes_;
    for (const RecomputeMode mode : {RecomputeMode::None, RecomputeMode::Full, RecomputeMode::Selective})
      attempt(group, {mode, {}});
    attempt(group, {RecomputeMode::Auto, {}});
    for (const LayerRecompute& other : seen_) attempt(group, other);
    const std::size_t count = values_[group.front()].size();
    for (std::size_t v = 0; v < count; ++v) toggle(group, {v});
    if (now_.size() > kFewLayers) return now_bytes_ < before;
    for (std::size_t v = 0; v < count; ++v) {
      for (std::size_t w = v + 1; w < count; ++w) toggle(group, {v, w});
    }
    return now_bytes_ < before;
  }

  void toggle(const std::vector<std::size_t>& group, std::initializer_list<std::size_t> values) {
    const std::size_t layer = group.front();
    LayerRecompute choice = by_names(layer);
    for (const std::size_t v : values) {
      const std::string& name = values_[layer][v];
      const bool dropped = std::erase(choice.keep, name) + std::erase(choice.offload, name) == 0;
      if (dropped) choice.keep.push_back(name);
    }
    in_order(layer, choice.keep);
    attempt(group, choice);
  }

  // What a layer keeps now, as a list.
  LayerRecompute by_names(std::size_t layer) const {
    LayerRecompute choice = now_[layer];
    switch (choice.mode) {
      case RecomputeMode::Auto: break;
      case RecomputeMode::None: choice.keep = values_[layer]; break;
      case RecomputeMode::Offload: choice.offload = values_[layer]; break;
      case RecomputeMode::Full: choice.keep = kept_by_[0][layer]; break;
      case RecomputeMode::Selective: choice.keep = kept_by_[1][layer]; break;
    }
    choice.mode = RecomputeMode::Auto;
    return choice;
  }

  void in_order(std::size_t layer, std::vector<std::string>& names) const {
    const std::set<std::string> kept(names.begin(), names.end());
    names.clear();
    for (const std::string& name : values_[layer]) {
      if (kept.contains(name)) names.push_back(name);
    }
  }

  bool has(std::size_t layer, const std::vector<std::string>& names) const {
    return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
      return std::find(values_[layer].begin(), values_[layer].end(), name) != values_[layer].end();
    });
  }

  void attempt(const std::vector<std::size_t>& group, const LayerRecompute& choice) {
    LayerChoices next = now_;
    for (const std::size_t layer : group) {
      if (has(layer, choice.keep) && has(layer, choice.offload)) next[layer] = choice;
    }
    if (plans_left_ == 0 || next == now_) return;
    --plans_left_;
    const std::int64_t bytes = least_bytes_(next);
    if (bytes >= now_bytes_) return;
    now_bytes_ = bytes;
    now_ = next;
    path_.push_back(std::move(next));
  }

  const std::function<std::int64_t(const LayerChoices&)>& least_bytes_;
  LayerChoices now_;
  std::int64_t now_bytes_ = 0, plans_left_;
  std::vector<std::vector<std::string>> values_;                  // by layer
  std::array<std::vector<std::vector<std::string>>, 2> kept_by_;  // full and selective, by layer
  std::vector<LayerRecompute> seen_;                              // what layers of the start keep, each once
  std::vector<LayerChoices> path_;
};

}  // namespace

std::vector<LayerChoices> smaller_choices(const Graph& keeping, LayerChoices start,
                                          const std::function<std::int64_t(const LayerChoices&)>& least_bytes) {
  return Descent(keeping, std::move(start), least_bytes).run();
}

}  // namespace plimsoll
