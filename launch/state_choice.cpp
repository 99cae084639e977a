#include "launch/state_choice.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "runtime/core/text.hpp"
#include "runtime/plan/shard_sizes.hpp"

namespace plimsoll {
namespace {

bool may_differ(const ParallelConfig& parallel, const ProgramOptions& o) {
  return o.zero > 0 && o.mesh.shards > 1 && (parallel.auto_state_shares || !parallel.state_shares.empty());
}

std::vector<std::int64_t> arenas(const ProgramOptions& o, const RankBudgets& budgets, std::int64_t outside_bytes) {
  std::vector<std::int64_t> bytes = budgets.by_shard(o.mesh);
  for (std::int64_t& b : bytes) b -= outside_bytes;
  return bytes;
}

double sum_of(const std::vector<std::int64_t>& values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), std::int64_t{0}));
}

// The stage's plan with equal shares must stay below this.
std::int64_t even_arena_of_stage(const ParallelConfig& parallel, const std::vector<std::int64_t>& arenas,
                                 const DividedState& state) {
  const auto ranks = static_cast<double>(arenas.size()), bytes = static_cast<double>(state.bytes);
  const std::int64_t least = *std::min_element(arenas.begin(), arenas.end());
  double fits = 0;
  if (parallel.auto_state_shares) {
    // Together the ranks have room for the state, and each for the rest.
    fits = std::min(sum_of(arenas) / ranks, static_cast<double>(least) + bytes / ranks);
  } else {
    fits = static_cast<double>(arenas.front());
    for (std::size_t r = 0; r < arenas.size(); ++r) {
      const double share = static_cast<double>(parallel.state_shares[r]) / sum_of(parallel.state_shares);
      const double here = static_cast<double>(arenas[r]) + bytes * (1 / ranks - share);
      fits = r == 0 ? here : std::min(fits, here);
    }
  }
  // What is free on a rank is shared in whole units.
  const std::int64_t uneven =
      static_cast<std::int64_t>(fits) - state.uneven_bytes - state.unit * state.bytes_per_element;
  return parallel.auto_state_shares ? std::max(least, uneven) : uneven;
}

}  // namespace

std::int64_t even_arena_bytes(const ParallelConfig& parallel, const ProgramOptions& o, const RankBudgets& budgets,
                              std::int64_t outside_bytes) {
  if (budgets.least() == 0) return 0;
  std::int64_t bytes = budgets.least() - outside_bytes;
  if (may_differ(parallel, o) && (budgets.differ() || !parallel.auto_state_shares)) {
    const std::vector<std::int64_t> by_shard = arenas(o, budgets, outside_bytes);
    bytes = std::numeric_limits<std::int64_t>::max();
    for (const int stage : distinct_stages(o))
      bytes = std::min(bytes, even_arena_of_stage(parallel, by_shard, divided_state(at_stage(o, stage))));
  }
  return std::max<std::int64_t>(1, bytes);
}

std::vector<std::int64_t> choose_state_shares(const ParallelConfig& parallel, const ProgramOptions& o,
                                              const RankBudgets& budgets, std::int64_t outside_bytes) {
  if (!may_differ(parallel, o)) return {};
  if (!parallel.auto_state_shares) return parallel.state_shares;
  if (!budgets.differ()) return {};
  const std::vector<std::int64_t> by_shard = arenas(o, budgets, outside_bytes);
  // Of the state of a stage, the part that fits beside everything else; by rank, on the stage that leaves least.
  std::vector<double> parts(by_shard.size(), std::numeric_limits<double>::infinity());
  DividedState first;
  for (const int stage : distinct_stages(o)) {
    const ProgramOptions at = at_stage(o, stage);
    const DividedState state = divided_state(at);
    if (state.bytes == 0) return {};
    if (first.bytes == 0) first = state;
    const std::int64_t equal = state.bytes / o.mesh.shards;
    const std::int64_t rest = plan_of(at).total_bytes - equal + state.uneven_bytes;
    for (std::size_t r = 0; r < parts.size(); ++r)
      parts[r] = std::min(parts[r], static_cast<double>(by_shard[r] - rest) / static_cast<double>(state.bytes));
  }
  const auto [least, most] = std::minmax_element(parts.begin(), parts.end());
  if (*least >= (1 - kLeastStateDifference) * *most && *least * o.mesh.shards >= 1) return {};
  std::vector<std::int64_t> free_bytes;
  for (const double part : parts)
    free_bytes.push_back(static_cast<std::int64_t>(part * static_cast<double>(first.bytes)));
  auto shares = share_state(first.bytes / first.bytes_per_element, first.bytes_per_element, free_bytes, first.unit);
  return shares.value_or(std::vector<std::int64_t>{});
}

std::string state_shares_text(const std::vector<std::int64_t>& shares) {
  constexpr std::size_t kMost = 16;
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < std::min(kMost, shares.size()); ++r)
    texts.push_back(fmt::format("{:.3g} %", 100 * static_cast<double>(shares[r]) / sum_of(shares)));
  return join(texts, " ") + (shares.size() > kMost ? " …" : "");
}

}  // namespace plimsoll
