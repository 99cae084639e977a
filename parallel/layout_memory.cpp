#include "parallel/layout_memory.hpp"

#include <algorithm>

#include "optim/update.hpp"

namespace plimsoll {

StageBytes bound_stage_bytes(PieceProfiles& pieces, const Layout& l, int stage) {
  const LayoutProblem& problem = pieces.problem();
  StageBytes bytes;
  if (problem.reduction_scratch) bytes.scratch = reduce_scratch_bytes(l.mesh.longest_axis());
  std::int64_t elements = 0, unit = 0;
  for (int c = 0; c < l.chunks; ++c) {
    const PieceProfile p = pieces.of(l, stage, c);
    const int in_flight = pieces.in_flight(l, stage, c);
    elements += p.elements();
    unit = p.layer_elements / pieces.layers(l, stage, c);
    bytes.staging = std::max(bytes.staging, p.staging_bytes);
    const bool halves = l.schedule == ScheduleKind::ZbH1;
    bytes.kept += in_flight * (halves ? std::max(p.kept_bytes, p.held_bytes) : p.kept_bytes);
    bytes.outside += in_flight * p.outside_bytes;
  }
  const StateBytes state = state_bytes(problem.dtype, problem.optimizer);
  const auto share = [&](int from) { return elements / (l.zero >= from ? l.mesh.shards : 1); };
  bytes.state = share(3) * state.weight + share(2) * state.gradient + share(1) * state.optimizer;
  const std::int64_t gathered = l.zero == 3 ? (problem.least_prefetch > 0 ? 2 : 1) * state.weight : 0;
  if (l.zero >= 2) bytes.units = unit * (2 * state.gradient + gathered);
  return bytes;
}

void add_recompute_bound(PieceProfiles& pieces, const Layout& l, LayoutEstimate& estimate) {
  const LayoutProblem& problem = pieces.problem();
  if (!problem.rewrite_at_need || problem.budget_bytes == 0) return;
  double slowest = 0;
  for (int s = 0; s < l.mesh.pipeline; ++s) {
    const StageBytes bytes = bound_stage_bytes(pieces, l, s);
    std::vector<TradingLayers> layers;
    std::int64_t backward = 0;
    for (int c = 0; c < l.chunks; ++c) {
      const PieceProfiles::Trades piece = pieces.trades(l, s, c);
      layers.insert(layers.end(), piece.layers.begin(), piece.layers.end());
      backward = piece.backward_bytes;
    }
    // In the backward of the last layer, or with units of the last but one, what all layers before it saved is there.
    layers.pop_back();
    if (bytes.units > 0 && !layers.empty()) layers.back().layers -= 1;
    const std::int64_t beside = bytes.bytes() - bytes.kept + bytes.outside + bytes.units + backward;
    const std::int64_t room = problem.budget_bytes - beside;
    const double seconds = least_recompute_seconds(layers, room);
    if (seconds <= slowest) continue;
    slowest = seconds;
    estimate.recompute_stage = s;
  }
  estimate.set_recompute(static_cast<double>(l.micro_batches + l.mesh.pipeline - 1) * slowest);
}

}  // namespace plimsoll
