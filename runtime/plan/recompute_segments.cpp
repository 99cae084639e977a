#include "runtime/plan/recompute_segments.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "runtime/core/error.hpp"
#include "runtime/plan/trade_hull.hpp"

namespace plimsoll {
namespace {

// Beyond these numbers, the ones between are thinned evenly: more choices of inner layers hardly pay.
constexpr std::size_t kMaxLabels = 96, kMaxPerLength = 24;

// A choice for one layer within a segment.
struct Inner {
  LayerChoice choice;
  std::int64_t first_forward_bytes = 0;          // of its forward when nothing but the boundary stays
  std::int64_t saved_bytes = 0, peak_bytes = 0;  // of its second forward and its backward
  std::int64_t ps = 0;
};

struct Label {
  std::int64_t saved_bytes = 0, peak_bytes = 0, ps = 0;
  std::vector<int> inner;
};

bool only_boundary(const LayerKind& kind, const LayerOption& option) {
  for (std::size_t v = 0; v < kind.tensors.size(); ++v) {
    if (option.fates[v] != Fate::Drop && !kind.tensors[v].always_kept) return false;
  }
  return true;
}

bool replayable(const LayerKind& kind) {
  return std::all_of(kind.tensors.begin(), kind.tensors.end(), [](const LayerTensor& t) { return t.replayable; });
}

std::int64_t incoming_gradient_bytes(const LayerKind& kind) {
  std::vector<bool> made(kind.gradients.size(), false);
  for (const BackwardStep& step : kind.steps) {
    for (const int g : step.makes) made[g] = true;
  }
  std::int64_t bytes = 0;
  for (std::size_t g = 0; g < made.size(); ++g) bytes += made[g] ? 0 : kind.gradients[g].bytes;
  return bytes;
}

// Within a segment, only its first boundary has a place of its own.
LayerKind with_saved(const LayerKind& kind) {
  LayerKind plain = kind;
  plain.saved_apart = false;
  return plain;
}

Inner inner_of(const LayerKind& kind, LayerChoice choice, std::int64_t gradient_bytes) {
  if (kind.saved_apart) {
    const LayerKind plain = with_saved(kind);
    const auto option = simulate_layer(plain, choice.option.fates, choice.option.row_parts, nullptr);
    require(option.has_value(), ErrorKind::Internal, "layer kind {}: an impossible choice within a segment", kind.name);
    choice.option = *option;
    return inner_of(plain, std::move(choice), gradient_bytes);
  }
  std::vector<Fate> bare;
  for (const LayerTensor& t : kind.tensors) bare.push_back(t.always_kept ? Fate::Keep : Fate::Drop);
  const auto dropped = simulate_layer(kind, bare, choice.option.row_parts, nullptr);
  require(dropped && (choice.rerun || only_boundary(kind, choice.option)), ErrorKind::Internal,
          "layer kind {}: an impossible choice within a segment", kind.name);
  Inner inner;
  inner.first_forward_bytes = dropped->forward_peak_bytes;
  inner.saved_bytes = choice.option.saved_bytes;
  inner.peak_bytes = choice.option.backward_peak_bytes;
  inner.ps = picoseconds(choice.option.seconds);
  if (choice.rerun) {
    inner.peak_bytes = std::max(inner.peak_bytes, choice.option.forward_peak_bytes + gradient_bytes);
    inner.ps += picoseconds(kind.forward_seconds());
    if (choice.option.row_parts > 1) inner.ps += picoseconds(kind.rows->seconds(choice.option.row_parts));
  }
  inner.choice = std::move(choice);
  return inner;
}

Label extended(const Label& label, const Inner& inner, std::int64_t boundary_bytes) {
  Label next = label;
  next.peak_bytes = std::max({label.peak_bytes, label.saved_bytes + inner.peak_bytes,
                              (label.inner.empty() ? 0 : boundary_bytes) + inner.first_forward_bytes});
  next.saved_bytes += inner.saved_bytes;
  next.ps += inner.ps;
  return next;
}

template <class T>
void thin(std::vector<T>& items, std::size_t most) {
  if (items.size() <= most) return;
  std::vector<T> some;
  for (std::size_t i = 0; i < most; ++i) some.push_back(items[i * (items.size() - 1) / (most - 1)]);
  items.swap(some);
}

// Those that none dominates, ordered by peak.
void reduce(std::vector<Label>& labels, bool count_saved, std::size_t most) {
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) {
    return std::tie(a.peak_bytes, a.ps, a.saved_bytes, a.inner) < std::tie(b.peak_bytes, b.ps, b.saved_bytes, b.inner);
  });
  std::vector<Label> front;
  for (Label& label : labels) {
    const bool dominated = std::any_of(front.begin(), front.end(), [&](const Label& f) {
      return f.ps <= label.ps && (!count_saved || f.saved_bytes <= label.saved_bytes);
    });
    if (!dominated) front.push_back(std::move(label));
  }
  thin(front, most);
  labels.swap(front);
}

// The corners of the trade of bytes for time, once for what is saved and once for the peak.
std::vector<Inner> corners(const std::vector<Inner>& all) {
  std::vector<Inner> chosen;
  std::vector<std::size_t> order(all.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<bool> taken(all.size(), false);
  for (const auto bytes : {&Inner::saved_bytes, &Inner::peak_bytes}) {
    for (const std::size_t i : trade_hull(
             order, [&](std::size_t at) { return all[at].*bytes; }, [&](std::size_t at) { return all[at].ps; }))
      taken[i] = true;
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (taken[i]) chosen.push_back(all[i]);
  }
  return chosen;
}

// The inner choices of a layer: with a second forward, and (where it is the last) without.
std::vector<Inner> inner_choices(const LayerKind& kind, const std::vector<LayerOption>& options, bool rerun, bool once,
                                 std::int64_t gradient_bytes) {
  if (once && rerun) return {inner_of(kind, {keep_everything(kind), 0, true}, gradient_bytes)};
  std::vector<Inner> all;
  for (const LayerOption& option : options) {
    if (option.host_bytes > 0 || (!rerun && !only_boundary(kind, option))) continue;
    all.push_back(inner_of(kind, {option, 0, rerun}, gradient_bytes));
  }
  return rerun ? corners(all) : all;
}

}  // namespace

Segment evaluate_segment(const std::vector<const LayerKind*>& kinds, std::vector<LayerChoice> layers) {
  require(kinds.size() == layers.size() && kinds.size() >= 2, ErrorKind::Internal, "a segment of {} layers, {} choices",
          kinds.size(), layers.size());
  const std::int64_t gradient = incoming_gradient_bytes(*kinds.back());
  Segment segment;
  for (const LayerTensor& t : kinds[0]->tensors) segment.saved_bytes += t.always_kept ? t.bytes : 0;
  Label label;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    require(replayable(*kinds[l]) && (layers[l].rerun || l + 1 == layers.size()), ErrorKind::Internal,
            "layer kind {}: cannot be within a segment so", kinds[l]->name);
    layers[l].segment = 0;
    label = extended(label, inner_of(*kinds[l], layers[l], gradient), segment.saved_bytes);
    label.inner.push_back(0);
  }
  segment.peak_bytes = label.peak_bytes - (kinds[0]->saved_apart ? segment.saved_bytes : 0);
  segment.ps = label.ps;
  segment.layers = std::move(layers);
  return segment;
}

std::vector<Segment> segments_from(const std::vector<const LayerKind*>& kinds,
                                   const std::vector<const std::vector<LayerOption>*>& options, bool once) {
  std::vector<Segment> found;
  std::vector<Label> labels(1);
  std::vector<std::vector<Inner>> chosen;  // by layer: those with a second forward, then those without
  std::int64_t boundary = 0;
  for (const LayerTensor& t : kinds[0]->tensors) boundary += t.always_kept ? t.bytes : 0;
  for (std::size_t l = 0; l < kinds.size() && replayable(*kinds[l]); ++l) {
    const std::int64_t gradient = incoming_gradient_bytes(*kinds[l]);
    std::vector<Inner> choices = inner_choices(*kinds[l], *options[l], true, once, gradient);
    const int with_rerun = static_cast<int>(choices.size());
    for (Inner& inner : inner_choices(*kinds[l], *options[l], false, once, gradient))
      choices.push_back(std::move(inner));
    std::vector<Label> last, further;
    for (const Label& label : labels) {
      for (int c = 0; c < static_cast<int>(choices.size()); ++c) {
        Label next = extended(label, choices[c], boundary);
        next.inner.push_back(c);
        if (c < with_rerun) further.push_back(next);
        if (c >= with_rerun || !once) last.push_back(std::move(next));
      }
    }
    chosen.push_back(std::move(choices));
    reduce(last, false, kMaxPerLength);
    for (const Label& label : last) {
      if (l == 0) break;
      std::vector<LayerChoice> layers;
      for (std::size_t k = 0; k <= l; ++k) layers.push_back(chosen[k][label.inner[k]].choice);
      found.push_back(evaluate_segment({kinds.begin(), kinds.begin() + static_cast<std::ptrdiff_t>(l) + 1}, layers));
    }
    reduce(further, true, kMaxLabels);
    labels.swap(further);
  }
  return found;
}

}  // namespace plimsoll
