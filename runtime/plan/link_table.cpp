#include "runtime/plan/link_table.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kLeastSample = std::int64_t{1} << 10, kLargestSample = std::int64_t{1} << 30;

std::vector<LinkSample> sample(const LinkLine& line) {
  std::vector<LinkSample> samples;
  for (std::int64_t bytes = kLeastSample; bytes <= kLargestSample; bytes *= 2) {
    samples.push_back({bytes, line.seconds(static_cast<double>(bytes))});
  }
  return samples;
}

}  // namespace

LinkTable::LinkTable(std::vector<LinkSample> samples) : samples_(std::move(samples)) {
  require(!samples_.empty(), ErrorKind::Internal, "a link table without samples");
  for (std::size_t i = 0; i < samples_.size(); ++i) {
    const LinkSample& s = samples_[i];
    require(s.bytes > (i == 0 ? 0 : samples_[i - 1].bytes) && s.seconds > 0, ErrorKind::Internal,
            "link table: sample {} of {} bytes in {} s", i, s.bytes, s.seconds);
  }
  for (std::size_t i = samples_.size() - 1; i > 0; --i) {
    samples_[i - 1].seconds = std::min(samples_[i - 1].seconds, samples_[i].seconds);
  }
}

LinkTable::LinkTable(const LinkLine& line) : LinkTable(sample(line)) {}

double LinkTable::seconds(double bytes) const {
  const LinkSample& last = samples_.back();
  if (bytes <= static_cast<double>(samples_.front().bytes)) return samples_.front().seconds;
  if (bytes >= static_cast<double>(last.bytes)) {
    const LinkSample before = samples_.size() > 1 ? samples_[samples_.size() - 2] : LinkSample{0, 0};
    const double s_per_byte = (last.seconds - before.seconds) / static_cast<double>(last.bytes - before.bytes);
    return last.seconds + (bytes - static_cast<double>(last.bytes)) * s_per_byte;
  }
  const auto after = std::upper_bound(samples_.begin(), samples_.end(), bytes,
                                      [](double b, const LinkSample& s) { return b < static_cast<double>(s.bytes); });
  const LinkSample &a = *(after - 1), &b = *after;
  const double part = std::log(bytes / static_cast<double>(a.bytes)) /
                      std::log(static_cast<double>(b.bytes) / static_cast<double>(a.bytes));
  return a.seconds * std::pow(b.seconds / a.seconds, part);
}

LinkLine LinkTable::fit(std::int64_t least_bytes) const {
  // Σ ((α + m·β − t) / t)² over samples is least where the two normal equations hold.
  double w = 0, wm = 0, wmm = 0, wt = 0, wmt = 0;
  std::size_t count = 0;
  for (const LinkSample& s : samples_) {
    if (s.bytes < least_bytes) continue;
    const double m = static_cast<double>(s.bytes), weight = 1 / (s.seconds * s.seconds);
    ++count;
    w += weight;
    wm += weight * m;
    wmm += weight * m * m;
    wt += weight * s.seconds;
    wmt += weight * m * s.seconds;
  }
  const LinkSample& last = samples_.back();
  const double rate_of_last = static_cast<double>(last.bytes) / last.seconds;
  if (count < 2) return {0, rate_of_last};
  const double alpha = (wt * wmm - wmt * wm) / (w * wmm - wm * wm);
  if (alpha < 0) return {0, wmm / wmt};
  const double beta = (wmt - alpha * wm) / wmm;
  constexpr double kSeen = 1e-9;  // of the time of the last, or it is rounding
  return beta * rate_of_last > kSeen ? LinkLine{alpha, 1 / beta} : LinkLine{wt / w, rate_of_last};
}

}  // namespace plimsoll
