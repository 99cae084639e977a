#pragma once
// The least that recomputation can cost where only bytes are known: a bound for planners that compare many stages
// (parallel/layout.hpp) before they plan the best of them exactly (recompute_plan.hpp).

#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

struct LayerKind;

// Of one layer, the lower left hull of what all its choices save and cost, from keeping everything on: bytes fall,
// seconds rise. The last corner saves nothing and costs what keeping nothing costs: no layer in the middle of a
// segment, whose boundaries are not kept, is cheaper. Choices without offload.
struct TradeCorner {
  std::int64_t saved_bytes = 0;  // of one micro-batch
  double seconds = 0;
};
using RecomputeTrade = std::vector<TradeCorner>;
RecomputeTrade recompute_trade(const LayerKind& kind);
// The same where values may wait in host memory, as if copies cost nothing: it begins with what must stay on the
// device.
RecomputeTrade offload_trade(const LayerKind& kind);

struct TradingLayers {
  const RecomputeTrade* trade = nullptr;
  std::int64_t layers = 1;  // with that trade
  int in_flight = 1;        // micro-batches between forward and backward
};

// No choices of these layers that save at most `room_bytes`, all micro-batches in flight together, cost less per
// micro-batch: the linear relaxation. Where none can, the cost of the least.
double least_recompute_seconds(std::span<const TradingLayers> layers, std::int64_t room_bytes);

}  // namespace plimsoll
