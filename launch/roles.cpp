#include "launch/roles.hpp"

#include <algorithm>

#include "runtime/core/text.hpp"

namespace plimsoll {

namespace {

struct Kind {
  std::int64_t micro_batches;
  int shard;
  bool operator==(const Kind&) const = default;
};

}  // namespace

std::vector<RankRole> rank_roles(const ProgramOptions& options) {
  const bool alone = options.mesh.pipeline == 1, uneven = uneven_state(options);
  std::vector<RankRole> roles;
  for (int stage = 0; stage < options.mesh.pipeline; ++stage) {
    std::vector<std::pair<Kind, std::vector<int>>> ranks_of;
    bool same_share = true;
    for (int r = 0; r < options.mesh.ranks(); ++r) {
      const Coordinates at = coordinates(options.mesh, r);
      if (at.pipeline != stage) continue;
      const Kind kind{alone ? options.micro_batches : micro_batches_of(options, r),
                      uneven ? at.data % options.mesh.shards : 0};
      auto found = std::find_if(ranks_of.begin(), ranks_of.end(), [&](const auto& s) { return s.first == kind; });
      if (found == ranks_of.end()) found = ranks_of.insert(found, {kind, {}});
      found->second.push_back(r);
      same_share = same_share && kind.micro_batches == ranks_of.front().first.micro_batches;
    }
    for (auto& [kind, ranks] : ranks_of) {
      RankRole role;
      const std::string part = uneven ? fmt::format("shard {}", kind.shard) : "all ranks";
      role.name = alone ? part : fmt::format("stage {}{}", stage, uneven ? ", " + part : "");
      if (!same_share) role.name += fmt::format(" (x {})", kind.micro_batches);
      role.ranks = std::move(ranks);
      role.options = options;
      role.options.rank = role.ranks.front();
      role.programs = build_programs(role.options);
      roles.push_back(std::move(role));
    }
  }
  return roles;
}

const RankRole& role_of(const std::vector<RankRole>& roles, int rank) {
  const auto found = std::find_if(roles.begin(), roles.end(), [&](const RankRole& role) {
    return std::binary_search(role.ranks.begin(), role.ranks.end(), rank);
  });
  require(found != roles.end(), ErrorKind::Internal, "rank {} has no role", rank);
  return *found;
}

const RankRole& largest_role(const std::vector<RankRole>& roles) {
  return *std::max_element(roles.begin(), roles.end(), [](const RankRole& a, const RankRole& b) {
    return a.programs.plan.total_bytes < b.programs.plan.total_bytes;
  });
}

namespace {

std::optional<Infeasible> with_name(std::optional<Infeasible> no, const RankRole& role, const std::vector<int>& ranks,
                                    bool several) {
  if (no && several) no->text = fmt::format("{} (rank {}): {}", role.name, rank_ranges(ranks), no->text);
  return no;
}

}  // namespace

std::optional<Infeasible> check_budget(const std::vector<RankRole>& roles, const RankBudgets& budgets,
                                       std::int64_t outside_bytes) {
  const auto above = [&](const RankRole& role) {
    return role.programs.plan.total_bytes - budgets.least_of(role.ranks);
  };
  const RankRole& role = *std::max_element(roles.begin(), roles.end(),
                                           [&](const RankRole& a, const RankRole& b) { return above(a) < above(b); });
  const std::int64_t budget = budgets.least_of(role.ranks);
  std::vector<int> ranks = role.ranks;
  std::erase_if(ranks, [&](int rank) { return budgets.of(rank) != budget; });
  ProgramOptions options = role.options;
  options.rank = ranks.front();
  return with_name(check_budget(role.programs, options, budget, outside_bytes), role, ranks,
                   roles.size() > 1 || budgets.differ());
}

std::optional<Infeasible> check_host_budget(const std::vector<RankRole>& roles, std::int64_t budget_bytes) {
  const RankRole& role = *std::max_element(roles.begin(), roles.end(), [](const RankRole& a, const RankRole& b) {
    return a.programs.plan.host_bytes < b.programs.plan.host_bytes;
  });
  return with_name(check_host_budget(role.programs, budget_bytes), role, role.ranks, roles.size() > 1);
}

std::string rank_ranges(const std::vector<int>& ranks) {
  std::vector<std::string> ranges;
  for (std::size_t first = 0, next = 0; first < ranks.size(); first = next) {
    for (next = first + 1; next < ranks.size() && ranks[next] == ranks[next - 1] + 1;) ++next;
    ranges.push_back(next - first == 1 ? std::to_string(ranks[first])
                                       : fmt::format("{}-{}", ranks[first], ranks[next - 1]));
  }
  return join(ranges, ", ");
}

}  // namespace plimsoll
