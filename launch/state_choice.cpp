#include "launch/state_choice.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "runtime/core/text.hpp"
#include "runtime/plan/shard_sizes.hpp"

namespace plimsoll {
namespace {

double sum_of(const std::vector<std::int64_t>& values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), std::int64_t{0}));
}

// What a stage divides, and its plan with equal parts.
struct Stage {
  DividedState state;
  std::int64_t even_bytes = 0;
};

std::vector<Stage> divided_stages(const ProgramOptions& o) {
  std::vector<Stage> stages;
  for (const int stage : distinct_stages(o)) {
    stages.push_back({divided_state(at_stage(o, stage))});
    if (stages.back().state.bytes == 0) return {};
  }
  return stages;
}

// Which part of the state each rank of the shard axis has room for, on the stage where that is least: beside everything
// that is not divided.
std::vector<double> room_for_state(const std::vector<std::int64_t>& budgets, std::int64_t outside_bytes,
                                   const std::vector<Stage>& stages) {
  const std::int64_t ranks = std::ssize(budgets);
  std::vector<double> room;
  for (const std::int64_t budget : budgets) {
    double least = std::numeric_limits<double>::infinity();
    for (const Stage& stage : stages) {
      const std::int64_t all = stage.state.bytes, rest = stage.even_bytes - all / ranks + stage.state.uneven_bytes;
      least = std::min(least, static_cast<double>(budget - outside_bytes - rest) / static_cast<double>(all));
    }
    room.push_back(least);
  }
  return room;
}

// Is there room for the shares, or, without, for some shares? These are whole units on every rank.
bool suffices(const std::vector<double>& room, const std::vector<std::int64_t>& shares, const DividedState& state) {
  double all = 0;
  for (std::size_t r = 0; r < room.size(); ++r) {
    const double least = shares.empty() ? 0 : static_cast<double>(shares[r]) / sum_of(shares);
    if (room[r] < least) return false;
    all += room[r] - static_cast<double>(state.unit * state.bytes_per_element) / static_cast<double>(state.bytes);
  }
  return !shares.empty() || all >= 1;
}

bool differ(const std::vector<std::int64_t>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) != values.end();
}

}  // namespace

std::int64_t even_arena_bytes(const ParallelConfig& parallel, const ProgramOptions& o, const RankBudgets& budgets,
                              std::int64_t outside_bytes) {
  if (budgets.least() == 0) return 0;
  const std::int64_t least = std::max<std::int64_t>(1, budgets.least() - outside_bytes);
  const std::vector<std::int64_t> by_shard = budgets.by_shard(o.mesh);
  const bool uneven = parallel.auto_state_shares ? differ(by_shard) : differ(parallel.state_shares);
  std::vector<Stage> stages;
  if (uneven && o.zero > 0) stages = divided_stages(o);
  if (stages.empty()) return least;
  std::int64_t fits = 1, most = *std::max_element(by_shard.begin(), by_shard.end());
  for (const Stage& stage : stages) most += stage.state.bytes;  // whatever the shares are
  while (fits < most) {
    const std::int64_t bytes = fits + (most - fits + 1) / 2;
    for (Stage& stage : stages) stage.even_bytes = bytes;
    const bool enough = std::all_of(stages.begin(), stages.end(), [&](const Stage& stage) {
      return suffices(room_for_state(by_shard, outside_bytes, stages), parallel.state_shares, stage.state);
    });
    (enough ? fits : most) = enough ? bytes : bytes - 1;
  }
  return parallel.auto_state_shares ? std::max(least, fits) : fits;
}

std::vector<std::int64_t> choose_state_shares(const ParallelConfig& parallel, const ProgramOptions& o,
                                              const RankBudgets& budgets, std::int64_t outside_bytes) {
  if (!parallel.auto_state_shares || o.zero == 0) return parallel.state_shares;
  const std::vector<std::int64_t> by_shard = budgets.by_shard(o.mesh);
  if (!differ(by_shard)) return {};
  std::vector<Stage> stages = divided_stages(o);
  if (stages.empty()) return {};
  const std::vector<int> numbers = distinct_stages(o);
  for (std::size_t s = 0; s < stages.size(); ++s) stages[s].even_bytes = plan_of(at_stage(o, numbers[s])).total_bytes;
  const std::vector<double> room = room_for_state(by_shard, outside_bytes, stages);
  const auto [least, most] = std::minmax_element(room.begin(), room.end());
  const bool alike = *least >= (1 - kLeastStateDifference) * *most;
  if (alike && *least * o.mesh.shards >= 1) return {};
  // Of the first stage: the others are shared alike.
  const DividedState& state = stages.front().state;
  std::vector<std::int64_t> free_bytes;
  for (const double part : room)
    free_bytes.push_back(static_cast<std::int64_t>(part * static_cast<double>(state.bytes)));
  return share_state(state.bytes / state.bytes_per_element, state.bytes_per_element, free_bytes, state.unit)
      .value_or(std::vector<std::int64_t>{});
}

std::string state_shares_text(const std::vector<std::int64_t>& shares) {
  constexpr std::size_t kMost = 16;
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < std::min(kMost, shares.size()); ++r)
    texts.push_back(fmt::format("{:.3g} %", 100 * static_cast<double>(shares[r]) / sum_of(shares)));
  return join(texts, " ") + (shares.size() > kMost ? " …" : "");
}

}  // namespace plimsoll
