#include "runtime/plan/recompute_trade.hpp"

#include <algorithm>

#include "runtime/plan/recompute_options.hpp"
#include "runtime/plan/trade_hull.hpp"

namespace plimsoll {

RecomputeTrade recompute_trade(const LayerKind& kind) {
  const LayerOptions options = layer_options(kind, {});
  std::vector<TradeCorner> points;
  for (const LayerOption& o : options.relaxed) points.push_back({o.saved_bytes, o.seconds});
  points.push_back({0, keep_nothing(kind).seconds});
  return trade_hull(
      std::move(points), [](const TradeCorner& c) { return c.saved_bytes; },
      [](const TradeCorner& c) { return c.seconds; });
}

RecomputeTrade offload_trade(const LayerKind& kind) {
  const std::vector<bool> needed = backward_needs(kind);
  RecomputeTrade trade{{0, 0}};
  for (std::size_t v = 0; v < kind.tensors.size(); ++v) {
    const LayerTensor& t = kind.tensors[v];
    const bool stays = t.always_kept || (needed[v] && !t.replayable && !t.offloadable);
    if (stays) trade.front().saved_bytes += t.bytes;
  }
  if (trade.front().saved_bytes > 0) trade.push_back({0, keep_nothing(kind).seconds});
  return trade;
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
