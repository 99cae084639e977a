#include "runtime/plan/recompute_options.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <tuple>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

struct Choosable {
  int tensor;
  std::vector<Fate> fates;
};

bool dominates(const LayerOption& a, std::int64_t a_ps, const LayerOption& b, std::int64_t b_ps) {
  return a.saved_bytes <= b.saved_bytes && a.forward_peak_bytes <= b.forward_peak_bytes &&
         a.backward_peak_bytes <= b.backward_peak_bytes && a_ps <= b_ps;
}

// Tensors that nothing but the making of one other tensor reads, which is no larger and can be kept: to keep that one
// instead, or as well, is never worse.
std::vector<bool> steps_on_the_way(const LayerKind& kind, const std::vector<bool>& needed) {
  const std::size_t count = kind.tensors.size();
  std::vector<std::vector<std::size_t>> made(count);
  std::vector<bool> on_the_way(count, true);
  for (const BackwardStep& step : kind.steps) {
    for (const int v : step.reads) on_the_way[v] = false;
  }
  for (std::size_t v = 0; v < count; ++v) {
    const LayerTensor& t = kind.tensors[v];
    for (const int u : t.made_from) made[u].push_back(v);
    if (t.kept_with >= 0) on_the_way[v] = on_the_way[t.kept_with] = false;
  }
  for (std::size_t u = 0; u < count; ++u) {
    on_the_way[u] = on_the_way[u] && kind.tensors[u].replayable && made[u].size() == 1;
    if (!on_the_way[u]) continue;
    const std::size_t v = made[u].front();
    const LayerTensor& t = kind.tensors[v];
    on_the_way[u] = needed[v] && !t.never_kept && t.bytes <= kind.tensors[u].bytes &&
                    t.bytes_on_host() <= kind.tensors[u].bytes_on_host() &&
                    t.offloadable >= kind.tensors[u].offloadable;
  }
  return on_the_way;
}

// The tensors put to choice, boundaries and then the largest first where not all of them can be; `complete` tells.
std::vector<Choosable> choosable(const LayerKind& kind, const OptionSpace& space, bool& complete) {
  const std::vector<bool> needed = backward_needs(kind), on_the_way = steps_on_the_way(kind, needed);
  std::vector<Choosable> all;
  for (int v = 0; v < static_cast<int>(kind.tensors.size()); ++v) {
    const LayerTensor& t = kind.tensors[v];
    if (!needed[v] || t.never_kept || on_the_way[v] || (t.always_kept && !t.may_leave)) continue;
    std::vector<Fate> fates;
    if (!t.always_kept) fates.push_back(Fate::Drop);
    fates.push_back(Fate::Keep);
    if (space.link != nullptr && t.offloadable && t.bytes_on_host() <= kind.host_limit_bytes)
      fates.push_back(Fate::Offload);
    if (fates.size() > 1) all.push_back({v, std::move(fates)});
  }
  std::stable_sort(all.begin(), all.end(), [&](const Choosable& a, const Choosable& b) {
    const LayerTensor &x = kind.tensors[a.tensor], &y = kind.tensors[b.tensor];
    return std::tuple(x.always_kept, x.bytes) > std::tuple(y.always_kept, y.bytes);
  });
  std::int64_t choices = 1;
  std::size_t taken = 0;
  const auto fates = [&](std::size_t i) { return std::ssize(all[i].fates); };
  while (taken < all.size() && choices * fates(taken) <= space.max_choices) choices *= fates(taken++);
  complete = taken == all.size();
  all.resize(taken);
  return all;
}

std::vector<LayerOption> enumerate(const LayerKind& kind, const OptionSpace& space, std::vector<Fate> fates,
                                   const std::vector<Choosable>& open, std::span<const int> parts) {
  std::vector<LayerOption> found;
  std::vector<std::size_t> digits(open.size(), 0);
  for (bool more = true; more;) {
    for (std::size_t i = 0; i < open.size(); ++i) fates[open[i].tensor] = open[i].fates[digits[i]];
    for (const int p : parts) {
      if (auto option = simulate_layer(kind, fates, p, space.link)) found.push_back(*std::move(option));
    }
    more = false;
    for (std::size_t i = 0; i < open.size() && !more; ++i) {
      more = ++digits[i] < open[i].fates.size();
      if (!more) digits[i] = 0;
    }
  }
  return pareto_options(std::move(found));
}

std::vector<Fate> kept(const LayerKind& kind, bool all_needed) {
  const std::vector<bool> needed = backward_needs(kind), on_the_way = steps_on_the_way(kind, needed);
  std::vector<Fate> fates;
  for (std::size_t v = 0; v < kind.tensors.size(); ++v) {
    const LayerTensor& t = kind.tensors[v];
    const bool may = needed[v] && !t.never_kept && ((all_needed && !on_the_way[v]) || !t.replayable);
    fates.push_back(t.always_kept || may ? Fate::Keep : Fate::Drop);
  }
  return fates;
}

LayerOption simulate_or_fail(const LayerKind& kind, const std::vector<Fate>& fates) {
  auto option = simulate_layer(kind, fates, 1, nullptr);
  require(option.has_value(), ErrorKind::Internal, "layer kind {}: backward cannot get its tensors", kind.name);
  return *std::move(option);
}

}  // namespace

std::int64_t picoseconds(double seconds) {
  require(std::isfinite(seconds), ErrorKind::Internal, "a cost of {} s in a recompute plan", seconds);
  // Sums of a thousand of them are exact. What takes longer than hours for one layer is too long whatever it takes.
  constexpr double kMost = 9000;
  return std::llround(std::clamp(seconds, -kMost, kMost) * 1e12);
}

std::vector<bool> backward_needs(const LayerKind& kind) {
  std::vector<bool> needed(kind.tensors.size(), false);
  for (const BackwardStep& step : kind.steps) {
    for (const int v : step.reads) needed[v] = true;
  }
  for (int v = static_cast<int>(kind.tensors.size()) - 1; v >= 0; --v) {
    const LayerTensor& t = kind.tensors[v];
    if (!needed[v] || t.always_kept || !t.replayable) continue;
    for (const int u : t.made_from) needed[u] = true;
  }
  return needed;
}

std::vector<LayerOption> pareto_options(std::vector<LayerOption> options) {
  struct Entry {
    std::int64_t ps;
    std::size_t index;
  };
  std::vector<Entry> order;
  for (std::size_t i = 0; i < options.size(); ++i) order.push_back({picoseconds(options[i].seconds), i});
  // In this order nothing is dominated by a later one, but for equals, of which the first stays.
  std::stable_sort(order.begin(), order.end(), [&](const Entry& a, const Entry& b) {
    const LayerOption &x = options[a.index], &y = options[b.index];
    return std::tuple(x.saved_bytes, a.ps, x.forward_peak_bytes, x.backward_peak_bytes) <
           std::tuple(y.saved_bytes, b.ps, y.forward_peak_bytes, y.backward_peak_bytes);
  });
  std::vector<Entry> front;
  for (const Entry& e : order) {
    const bool dominated = std::any_of(front.begin(), front.end(), [&](const Entry& f) {
      return dominates(options[f.index], f.ps, options[e.index], e.ps);
    });
    if (!dominated) front.push_back(e);
  }
  std::vector<LayerOption> kept_options;
  for (const Entry& e : front) kept_options.push_back(std::move(options[e.index]));
  return kept_options;
}

LayerOptions layer_options(const LayerKind& kind, const OptionSpace& space) {
  check_layer_kind(kind);
  std::vector<int> parts{1};
  if (space.row_splits && kind.rows) {
    for (const RowSplit::Parts& p : kind.rows->parts) parts.push_back(p.count);
  }
  LayerOptions result;
  const std::vector<Choosable> open = choosable(kind, space, result.complete);
  const std::vector<Fate> fates = kept(kind, true);
  result.options = enumerate(kind, space, fates, open, parts);
  require(!result.options.empty(), ErrorKind::Internal, "layer kind {}: backward cannot get its tensors", kind.name);
  result.relaxed = result.options;
  if (result.complete) return result;
  if (space.link != nullptr) {  // without a third fate more tensors are put to choice
    OptionSpace on_device = space;
    on_device.link = nullptr;
    bool ignored = false;
    std::vector<LayerOption> more = enumerate(kind, on_device, fates, choosable(kind, on_device, ignored), parts);
    std::move(more.begin(), more.end(), std::back_inserter(result.options));
    result.options = pareto_options(std::move(result.options));
  }
  LayerKind light = kind;
  std::vector<bool> is_open(kind.tensors.size(), false);
  for (const Choosable& c : open) is_open[c.tensor] = true;
  for (std::size_t v = 0; v < light.tensors.size(); ++v) {
    if (fates[v] == Fate::Keep && !light.tensors[v].always_kept && !is_open[v]) light.tensors[v].bytes = 0;
  }
  if (light.rows) {  // a tensor that is free to keep need not be a block's
    std::erase_if(light.rows->tensors, [&](int v) { return fates[v] == Fate::Keep && !is_open[v]; });
  }
  result.relaxed = enumerate(light, space, fates, open, parts);
  return result;
}

LayerOption keep_everything(const LayerKind& kind) {
  std::vector<Fate> fates = kept(kind, false);
  for (const BackwardStep& step : kind.steps) {
    for (const int v : step.reads) fates[v] = Fate::Keep;
  }
  return simulate_or_fail(kind, fates);
}
LayerOption keep_nothing(const LayerKind& kind) { return simulate_or_fail(kind, kept(kind, false)); }

}  // namespace plimsoll
