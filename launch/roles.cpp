#include "launch/roles.hpp"

#include <algorithm>

#include "runtime/core/text.hpp"

namespace plimsoll {

std::vector<RankRole> rank_roles(const ProgramOptions& options) {
  const bool alone = options.mesh.pipeline == 1;
  std::vector<RankRole> roles;
  for (int stage = 0; stage < options.mesh.pipeline; ++stage) {
    std::vector<std::pair<std::int64_t, std::vector<int>>> ranks_of;  // by number of micro-batches
    for (int r = 0; r < options.mesh.ranks(); ++r) {
      if (coordinates(options.mesh, r).pipeline != stage) continue;
      const std::int64_t share = alone ? options.micro_batches : micro_batches_of(options, r);
      auto found = std::find_if(ranks_of.begin(), ranks_of.end(), [&](const auto& s) { return s.first == share; });
      if (found == ranks_of.end()) found = ranks_of.insert(found, {share, {}});
      found->second.push_back(r);
    }
    for (auto& [share, ranks] : ranks_of) {
      RankRole role;
      role.name = alone ? "all ranks" : fmt::format("stage {}", stage);
      if (ranks_of.size() > 1) role.name += fmt::format(" (x {})", share);
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

std::optional<Infeasible> with_name(std::optional<Infeasible> no, const RankRole& role, std::size_t roles) {
  if (no && roles > 1) no->text = fmt::format("{} (rank {}): {}", role.name, rank_ranges(role.ranks), no->text);
  return no;
}

}  // namespace

std::optional<Infeasible> check_budget(const std::vector<RankRole>& roles, std::int64_t budget_bytes,
                                       std::int64_t outside_bytes) {
  const RankRole& role = largest_role(roles);
  return with_name(check_budget(role.programs, role.options, budget_bytes, outside_bytes), role, roles.size());
}

std::optional<Infeasible> check_host_budget(const std::vector<RankRole>& roles, std::int64_t budget_bytes) {
  const RankRole& role = *std::max_element(roles.begin(), roles.end(), [](const RankRole& a, const RankRole& b) {
    return a.programs.plan.host_bytes < b.programs.plan.host_bytes;
  });
  return with_name(check_host_budget(role.programs, role.options, budget_bytes), role, roles.size());
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
