#pragma once
// What kinds of ranks a run has: all ranks of a role have the same bytes in the same places. A plan looks at one rank
// of each, so that it takes as long for ten thousand ranks as for ten.

#include <string>
#include <vector>

#include "launch/infeasible.hpp"
#include "launch/rank_budgets.hpp"

namespace plimsoll {

struct RankRole {
  std::string name;        // "all ranks", "stage 1", "stage 1 (x 3)" with three micro-batches, "stage 1, shard 0"
  std::vector<int> ranks;  // rising
  ProgramOptions options;  // of the first of them
  Programs programs;
};

// The stages of the pipeline: split dims are padded to equal parts and units to equal shards, so that neither the
// tensor nor the data axis changes a size. (Ranks compare the bytes of their stage before step 0:
// launch/handshake.hpp.) Where replicas have other numbers of micro-batches, which a pipeline keeps in flight, a role
// of each stage for each number, and where ranks have other parts of what ZeRO divides, one for each place on the shard
// axis, in the order of the replicas.
std::vector<RankRole> rank_roles(const ProgramOptions& options);

// The role that `rank` is of, and the one whose arena is the largest. Both want at least one role.
const RankRole& role_of(const std::vector<RankRole>& roles, int rank);
const RankRole& largest_role(const std::vector<RankRole>& roles);

// Does every rank fit its budget? Otherwise what check_budget() says of the role that is most above it, under its name
// and with the ranks that have the budget.
std::optional<Infeasible> check_budget(const std::vector<RankRole>& roles, const RankBudgets& budgets,
                                       std::int64_t outside_bytes);
std::optional<Infeasible> check_host_budget(const std::vector<RankRole>& roles, std::int64_t budget_bytes);

// "0-3, 8-11"
std::string rank_ranges(const std::vector<int>& ranks);

}  // namespace plimsoll
