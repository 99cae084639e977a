#include "runtime/plan/recompute_trade.hpp"

#include <algorithm>

#include "runtime/plan/recompute_options.hpp"

namespace plimsoll {

RecomputeTrade recompute_trade(const LayerKind& kind) {
  const LayerOptions options = layer_options(kind, {});
  std::vector<TradeCorner> points;
  for (const LayerOption& o : options.relaxed) points.push_back({o.saved_bytes, o.seconds});
  points.push_back({0, keep_nothing(kind).seconds});
  std::sort(points.begin(), points.end(), [](const TradeCorner& a, const TradeCorner& b) {
    return a.seconds != b.seconds ? a.seconds < b.seconds : a.saved_bytes < b.saved_bytes;
  });
  RecomputeTrade corners;
  const auto steepness = [](const TradeCorner& a, const TradeCorner& b) {
    return (b.seconds - a.seconds) / static_cast<double>(a.saved_bytes - b.saved_bytes);
  };
  for (const TradeCorner& point : points) {
    if (!corners.empty() && point.saved_bytes >= corners.back().saved_bytes) continue;
    while (corners.size() >= 2 &&
           steepness(*(corners.end() - 2), corners.back()) >= steepness(*(corners.end() - 2), point))
      corners.pop_back();
    corners.push_back(point);
  }
  return corners;
}

double least_recompute_seconds(std::span<const TradingLayers> layers, std::int64_t room_bytes) {
  struct Slope {
    double bytes, seconds;
  };
  std::vector<Slope> slopes;
  double excess = -static_cast<double>(room_bytes), least = 0;
  for (const TradingLayers& l : layers) {
    const auto count = static_cast<double>(l.layers), held = count * l.in_flight;
    excess += held * static_cast<double>(l.trade->front().saved_bytes);
    least += count * l.trade->front().seconds;
    for (std::size_t k = 1; k < l.trade->size(); ++k) {
      const TradeCorner &from = (*l.trade)[k - 1], &to = (*l.trade)[k];
      slopes.push_back(
          {held * static_cast<double>(from.saved_bytes - to.saved_bytes), count * (to.seconds - from.seconds)});
    }
  }
  // The cheapest bytes first.
  std::sort(slopes.begin(), slopes.end(),
            [](const Slope& a, const Slope& b) { return a.seconds * b.bytes < b.seconds * a.bytes; });
  for (const Slope& s : slopes) {
    if (excess <= 0) break;
    least += s.seconds * std::min(1.0, excess / s.bytes);
    excess -= s.bytes;
  }
  return least;
}

}  // namespace plimsoll
