#include "runtime/plan/recompute_plan.hpp"

#include <cmath>
#include <map>

#include "runtime/core/error.hpp"
#include "runtime/plan/recompute_segments.hpp"

namespace plimsoll {
namespace {

double seconds_of(std::int64_t ps) { return static_cast<double>(ps) * 1e-12; }

// The choices of one level as items of the search, and what each stands for.
struct Offer {
  RecomputeItems items;
  std::vector<std::vector<LayerChoice>> sources;

  int add(std::vector<LayerChoice> source) {
    sources.push_back(std::move(source));
    return static_cast<int>(sources.size()) - 1;
  }
};

using KindOptions = std::vector<std::vector<LayerOption>>;

bool saved_apart(const RecomputeStage& stage) { return stage.kinds[stage.layers.front()].saved_apart; }

void offer_segments(const RecomputeStage& stage, const KindOptions& options, Offer& offer) {
  const int layers = static_cast<int>(stage.layers.size());
  const int longest = static_cast<int>(std::ceil(std::sqrt(2.0 * layers))) + 1;
  std::map<std::vector<int>, std::vector<RecomputeItem>> known;  // by the kinds of the layers
  for (int i = 0; i + 1 < layers; ++i) {
    const std::vector<int> run(stage.layers.begin() + i, stage.layers.begin() + std::min(layers, i + longest));
    const auto [entry, first_time] = known.try_emplace(run);
    if (first_time) {
      std::vector<const LayerKind*> kinds;
      std::vector<const std::vector<LayerOption>*> run_options;
      for (const int kind : run) {
        kinds.push_back(&stage.kinds[kind]);
        run_options.push_back(&options[kind]);
      }
      for (Segment& s : segments_from(kinds, run_options, stage.once)) {
        const int span = static_cast<int>(s.layers.size());
        entry->second.push_back({span, s.saved_bytes, s.peak_bytes, s.ps, offer.add(std::move(s.layers))});
      }
    }
    offer.items.at[i].insert(offer.items.at[i].end(), entry->second.begin(), entry->second.end());
  }
}

Offer make_offer(const RecomputeStage& stage, const KindOptions& options, bool segments) {
  Offer offer;
  offer.items.in_flight = stage.in_flight;
  offer.items.head_bytes = stage.head_bytes;
  offer.items.apart = saved_apart(stage);
  std::vector<std::vector<RecomputeItem>> of_kind(options.size());
  for (std::size_t k = 0; k < options.size(); ++k) {
    for (const LayerOption& o : options[k]) {
      of_kind[k].push_back({1, o.saved_bytes, o.peak_bytes(), picoseconds(o.seconds), offer.add({{o, 0, false}})});
    }
  }
  for (const int kind : stage.layers) offer.items.at.push_back(of_kind[kind]);
  if (segments) offer_segments(stage, options, offer);
  return offer;
}

struct Level {
  RecomputeLevel level;
  Offer offer;
  std::optional<Offer> relaxed;  // where not all tensors were put to choice
};

// The choices of single layers, by kind.
struct Choices {
  KindOptions options, relaxed;
  bool complete = true;
};

Choices make_choices(const RecomputeStage& stage, bool row_splits) {
  Choices choices;
  for (const LayerKind& kind : stage.kinds) {
    LayerOptions o = layer_options(kind, {.link = stage.link ? &*stage.link : nullptr, .row_splits = row_splits});
    choices.complete = choices.complete && o.complete;
    choices.options.push_back(std::move(o.options));
    choices.relaxed.push_back(std::move(o.relaxed));
  }
  return choices;
}

Level make_level(const RecomputeStage& stage, RecomputeLevel level, const Choices& choices) {
  const bool segments = level != RecomputeLevel::Layers && stage.segments;
  Level made{level, make_offer(stage, choices.options, segments), std::nullopt};
  if (!choices.complete) made.relaxed = make_offer(stage, choices.relaxed, segments);
  return made;
}

std::vector<LayerChoice> choices_of(const Offer& offer, const std::vector<RecomputeItem>& items) {
  std::vector<LayerChoice> choices;
  for (const RecomputeItem& item : items) {
    const int first = static_cast<int>(choices.size());
    for (LayerChoice choice : offer.sources[item.source]) {
      choice.segment = first;
      choices.push_back(std::move(choice));
    }
  }
  return choices;
}

void check_stage(const RecomputeStage& stage) {
  require(stage.in_flight >= 1 && stage.head_bytes >= 0 && !stage.layers.empty(), ErrorKind::Internal,
          "a recompute plan for {} layers with {} micro-batches in flight and a head of {} bytes", stage.layers.size(),
          stage.in_flight, stage.head_bytes);
  for (const int kind : stage.layers) {
    require(kind >= 0 && kind < static_cast<int>(stage.kinds.size()), ErrorKind::Internal,
            "a recompute plan for a layer of kind {} of {}", kind, stage.kinds.size());
    require(stage.kinds[kind].saved_apart == saved_apart(stage), ErrorKind::Internal,
            "a recompute plan with {} micro-batches in flight that only some layers keep apart", stage.in_flight);
  }
  for (const LayerKind& kind : stage.kinds) check_layer_kind(kind);
}

std::optional<RecomputePlan> plan_level(const RecomputeStage& stage, const Level& level, std::int64_t budget_bytes,
                                        const RecomputeLimits& limits) {
  const auto found = cheapest_items(level.offer.items, budget_bytes, limits);
  if (!found) return std::nullopt;
  std::int64_t bound = found->bound_ps;
  if (level.relaxed) {
    const auto lighter = cheapest_items(level.relaxed->items, budget_bytes, limits);
    bound = lighter ? std::min(lighter->bound_ps, found->ps) : 0;
  }
  RecomputePlan plan = recompute_plan_of(stage, choices_of(level.offer, found->items));
  plan.bound_seconds = seconds_of(bound);
  return plan;
}

}  // namespace

struct RecomputePlanner::Impl {
  RecomputeStage stage;
  // Those that a budget asked for.
  std::map<bool, Choices> choices;  // without and with row-splits
  std::map<RecomputeLevel, Level> levels;

  const Choices& choices_with(bool row_splits) {
    const auto known = choices.find(row_splits);
    return known != choices.end() ? known->second
                                  : choices.emplace(row_splits, make_choices(stage, row_splits)).first->second;
  }
  const Level& level(RecomputeLevel which) {
    const auto known = levels.find(which);
    if (known != levels.end()) return known->second;
    const Choices& offered = choices_with(which == RecomputeLevel::RowSplits);
    return levels.emplace(which, make_level(stage, which, offered)).first->second;
  }
};

RecomputePlanner::RecomputePlanner(RecomputeStage stage) : impl_(new Impl{std::move(stage), {}, {}}) {
  check_stage(impl_->stage);
}
RecomputePlanner::~RecomputePlanner() = default;
RecomputePlanner::RecomputePlanner(RecomputePlanner&&) noexcept = default;
const RecomputeStage& RecomputePlanner::stage() const { return impl_->stage; }

RecomputeAnswer RecomputePlanner::plan(std::int64_t budget_bytes, const RecomputeLimits& limits) {
  const RecomputeStage& stage = impl_->stage;
  std::int64_t needed = 0;
  std::optional<RecomputePlan> best;
  for (const auto level : {RecomputeLevel::Layers, RecomputeLevel::Segments, RecomputeLevel::RowSplits}) {
    if (level == RecomputeLevel::Segments && !stage.segments) continue;
    if (level == RecomputeLevel::RowSplits && (!stage.row_splits || best)) continue;
    const Level& made = impl_->level(level);
    auto plan = plan_level(stage, made, budget_bytes, limits);
    if (plan && (!best || plan->seconds < best->seconds)) best = std::move(plan);
    needed = least_budget_bytes(made.offer.items);
    if (best && budget_bytes >= 2 * needed) break;
  }
  if (best) return *std::move(best);
  return RecomputeInfeasible{needed};
}

RecomputeAnswer plan_recompute(const RecomputeStage& stage, std::int64_t budget_bytes, const RecomputeLimits& limits) {
  return RecomputePlanner(stage).plan(budget_bytes, limits);
}

RecomputePlan recompute_plan_of(const RecomputeStage& stage, std::vector<LayerChoice> choices) {
  check_stage(stage);
  require(choices.size() == stage.layers.size(), ErrorKind::Internal, "{} choices for {} layers", choices.size(),
          stage.layers.size());
  RecomputePlan plan;
  std::vector<RecomputeItem> items;
  std::int64_t ps = 0;
  const int layers = static_cast<int>(choices.size());
  for (int i = 0, end; i < layers; i = end) {
    for (end = i + 1; end < layers && choices[end].segment == i;) ++end;
    const LayerOption& option = choices[i].option;
    RecomputeItem item{end - i, option.saved_bytes, option.peak_bytes(), picoseconds(option.seconds)};
    if (item.span > 1) {
      std::vector<const LayerKind*> kinds;
      for (int l = i; l < end; ++l) kinds.push_back(&stage.kinds[stage.layers[l]]);
      const Segment s = evaluate_segment(kinds, {choices.begin() + i, choices.begin() + end});
      item = {item.span, s.saved_bytes, s.peak_bytes, s.ps};
      plan.level = std::max(plan.level, RecomputeLevel::Segments);
    } else {
      require(choices[i].segment == i && !choices[i].rerun, ErrorKind::Internal,
              "layer {} claims the segment of layer {}", i, choices[i].segment);
    }
    for (int l = i; l < end; ++l) {
      plan.host_bytes += choices[l].option.host_bytes;
      if (choices[l].option.row_parts > 1) plan.level = RecomputeLevel::RowSplits;
    }
    plan.saved_bytes += item.saved_bytes;
    ps += item.ps;
    items.push_back(item);
  }
  plan.layers = std::move(choices);
  plan.seconds = plan.bound_seconds = seconds_of(ps);
  plan.peak_bytes = items_peak_bytes(items, stage.in_flight, stage.head_bytes, saved_apart(stage));
  return plan;
}

std::int64_t no_recompute_peak_bytes(const RecomputeStage& stage) {
  std::vector<LayerChoice> choices;
  for (const int kind : stage.layers) {
    const int layer = static_cast<int>(choices.size());
    choices.push_back({keep_everything(stage.kinds[kind]), layer, false});
  }
  return recompute_plan_of(stage, std::move(choices)).peak_bytes;
}

}  // namespace plimsoll
