#include "runtime/plan/recompute_labels.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/plan/trade_hull.hpp"

namespace plimsoll {
namespace {

using Label = RecomputeLabel;

// Of every item that covers the layer, its part of one of its layers; rounded down.
std::vector<RecomputeItem> shares_of(const RecomputeItems& items, int layer) {
  std::vector<RecomputeItem> shares;
  const int layers = static_cast<int>(items.at.size());
  for (int first = 0; first <= layer; ++first) {
    for (const RecomputeItem& item : items.at[first]) {
      if (first + item.span > layer && first + item.span <= layers)
        shares.push_back({1, item.saved_bytes / item.span, item.peak_bytes, item.ps / item.span, item.source});
    }
  }
  return shares;
}

struct Begin {
  int layer, item;
};

// Adds `item` to every label it fits, and merges the result into `target`; both rise in bytes and fall in cost.
// `rest_ps`: the least that the layers behind it cost.
void extend(std::vector<Label>& target, const std::vector<Label>& labels, const RecomputeItem& item, Begin begin,
            const LabelTask& task, std::int64_t rest_ps, std::vector<Label>& scratch) {
  const auto too_large = [&](const Label& label) {
    return (task.apart ? 0 : label.saved_bytes) + item.peak_bytes > task.room_bytes ||
           label.saved_bytes + item.saved_bytes > task.cap_bytes;
  };
  // Labels rise in bytes and fall in cost: those that are neither too large nor too dear follow each other.
  const auto dear = [&](const Label& label) { return label.ps + item.ps + rest_ps >= task.incumbent_ps; };
  const auto fits_end =
      std::partition_point(labels.begin(), labels.end(), [&](const Label& label) { return !too_large(label); });
  const auto cheap = std::partition_point(labels.begin(), fits_end, dear);
  if (cheap == fits_end) return;
  scratch.clear();
  const auto add = [&](const Label& label) {
    if (!scratch.empty() && scratch.back().ps <= label.ps) return;
    if (!scratch.empty() && scratch.back().saved_bytes == label.saved_bytes) scratch.pop_back();
    scratch.push_back(label);
  };
  std::size_t old = 0;
  for (auto label = cheap; label != fits_end; ++label) {
    const Label next{label->saved_bytes + item.saved_bytes, label->ps + item.ps, begin.layer,
                     static_cast<int>(label - labels.begin()), begin.item};
    while (old < target.size() && target[old].saved_bytes <= next.saved_bytes) add(target[old++]);
    add(next);
  }
  while (old < target.size()) add(target[old++]);
  target.swap(scratch);
}

void keep_one_per_bin(std::vector<Label>& labels, int bins, Crowded crowded) {
  const std::int64_t first = labels.front().saved_bytes;
  const std::int64_t width = (labels.back().saved_bytes - first) / bins + 1;
  std::size_t kept = 0;
  for (Label label : labels) {
    // Costs fall, so that the last of a bin is its cheapest and the first its smallest.
    if (kept > 0 && (labels[kept - 1].saved_bytes - first) / width == (label.saved_bytes - first) / width) {
      --kept;
      if (crowded == Crowded::KeepBound) label.saved_bytes = labels[kept].saved_bytes;
    }
    labels[kept++] = label;
  }
  labels.resize(kept);
}

}  // namespace

SuffixBound::SuffixBound(const RecomputeItems& items) : suffix_(items.at.size() + 1) {
  std::vector<Slope> slopes;
  const auto flatter = [](const Slope& a, const Slope& b) { return a.ps * b.bytes < b.ps * a.bytes; };
  for (int i = static_cast<int>(items.at.size()) - 1; i >= 0; --i) {
    const std::vector<RecomputeItem> corners = trade_hull(
        shares_of(items, i), [](const RecomputeItem& item) { return item.saved_bytes; },
        [](const RecomputeItem& item) { return item.ps; });
    suffix_[i].saved = suffix_[i + 1].saved + corners[0].saved_bytes;
    suffix_[i].ps = suffix_[i + 1].ps + corners[0].ps;
    const std::size_t before = slopes.size();
    for (std::size_t k = 1; k < corners.size(); ++k) {
      slopes.push_back({static_cast<double>(corners[k - 1].saved_bytes - corners[k].saved_bytes),
                        static_cast<double>(corners[k].ps - corners[k - 1].ps)});
    }
    std::inplace_merge(slopes.begin(), slopes.begin() + static_cast<std::ptrdiff_t>(before), slopes.end(), flatter);
    double bytes = 0, ps = 0;
    suffix_[i].bytes.reserve(slopes.size());
    suffix_[i].costs.reserve(slopes.size());
    for (const Slope& s : slopes) {
      suffix_[i].bytes.push_back(bytes += s.bytes);
      suffix_[i].costs.push_back(ps += s.ps);
    }
  }
}

std::int64_t SuffixBound::least_ps(int layer, std::int64_t bytes) const {
  const Suffix& s = suffix_[layer];
  const auto less = static_cast<double>(s.saved - bytes);
  if (less <= 0) return s.ps;
  const auto end = std::lower_bound(s.bytes.begin(), s.bytes.end(), less);
  if (end == s.bytes.end()) return kUnreachable;
  return s.ps_at(static_cast<std::size_t>(end - s.bytes.begin()), less);
}

std::int64_t SuffixBound::Suffix::ps_at(std::size_t at, double less) const {
  const double before = at == 0 ? 0 : bytes[at - 1], least_before = at == 0 ? 0 : costs[at - 1];
  const double least = least_before + (costs[at] - least_before) * (less - before) / (bytes[at] - before);
  // Rounding of the doubles must not raise the bound.
  return ps + static_cast<std::int64_t>(std::floor(least * (1 - 1e-12)));
}

void SuffixBound::prune(std::vector<Label>& labels, int layer, std::int64_t cap, std::int64_t incumbent_ps) const {
  // Labels rise: what is left for the layers to come falls, and so the slope that ends there moves on.
  const Suffix& s = suffix_[layer];
  std::size_t at = 0;
  std::erase_if(labels, [&](const Label& label) {
    const auto less = static_cast<double>(s.saved + label.saved_bytes - cap);
    while (at < s.bytes.size() && s.bytes[at] < less) ++at;
    if (less > 0 && at == s.bytes.size()) return true;
    return label.ps + (less <= 0 ? s.ps : s.ps_at(at, less)) >= incumbent_ps;
  });
}

LabelResult cheapest_path(const RecomputeItems& items, const SuffixBound& bound, const LabelTask& task) {
  const int layers = static_cast<int>(items.at.size());
  std::vector<std::vector<Label>> labels(layers + 1);
  std::vector<Label> scratch;
  labels[0].push_back({0, 0, -1, -1, -1});
  LabelResult result;
  for (int i = 0; i <= layers; ++i) {
    bound.prune(labels[i], i, task.cap_bytes, task.incumbent_ps);
    if (static_cast<int>(labels[i].size()) > task.max_labels) {
      result.too_many = task.crowded == Crowded::End;
      if (result.too_many) return result;
      keep_one_per_bin(labels[i], task.max_labels, task.crowded);
    }
    if (i == layers) break;
    result.work += static_cast<std::int64_t>(labels[i].size() * items.at[i].size());
    for (int k = 0; k < static_cast<int>(items.at[i].size()); ++k) {
      const RecomputeItem& item = items.at[i][k];
      if (i + item.span > layers) continue;
      extend(labels[i + item.span], labels[i], item, {i, k}, task, bound.least_ps(i + item.span), scratch);
    }
  }
  if (labels[layers].empty()) return result;
  const Label* label = &labels[layers].back();
  result.saved_bytes = label->saved_bytes;
  result.ps = label->ps;
  for (; label->begin >= 0; label = &labels[label->begin][label->parent]) {
    result.items.push_back(items.at[label->begin][label->item]);
  }
  std::reverse(result.items.begin(), result.items.end());
  return result;
}

}  // namespace plimsoll
