#pragma once
// From a configuration to what a run does: the model with its vocabulary, the data, the programs, the budget.
// Everything that is `auto` is decided here, and what was decided is in the result.

#include <memory>

#include "launch/config.hpp"
#include "launch/infeasible.hpp"
#include "launch/rank_budgets.hpp"
#include "launch/recompute_choice.hpp"
#include "runtime/data/dataset.hpp"
#include "runtime/data/tokenizer.hpp"
#include "runtime/plan/kernel_profile.hpp"

namespace plimsoll {

struct Backend;
class Group;

// Where ranks and cores stand.
struct Place {
  int rank = 0, ranks = 1;
  int local_rank = 0, local_ranks = 1;  // on this host
  double cores = 0;                     // share_of_cores(); 0: not known, an even part of those of the process
};

// The tokenizer of the data, or null when there is none; looks at the files.
std::unique_ptr<Tokenizer> data_tokenizer(const Config& config);
// Fills model.vocabulary when it is auto: from the tokenizer. Throws Error(Config) when neither says, or when the
// tokenizer has more ids than the model; Error(MissingInput) when it is auto and the data are not there.
void complete_vocabulary(Config& config, const Tokenizer* tokenizer);

// Collective. By rank: the same for ranks of one host.
std::vector<std::uint64_t> hosts_of(const Group& control);
// Collective: Place::cores of this rank, from the cores that every rank of its host may run on.
double cores_of_rank(const Group& control);
// run.threads, or a thread for each core of this rank.
int choose_threads(const Config& config, const Place& place);

// The mesh of a configuration that went through check_for_ranks().
Mesh choose_mesh(const Config& config, int ranks);

enum class Purpose : std::uint8_t { Train, Evaluate, Generate };

// The programs of a run. `config` went through check_for_ranks() and complete_vocabulary(). train.micro_batch and
// memory.logits auto: the largest divisor of a rank's share with at most 4096 tokens, and the largest chunk of logits,
// whose plan fits `budgets` minus `outside_bytes` (0: no limit), and what it offloads `host_bytes`.
// memory.recompute auto: nothing where that fits; otherwise what `costs` (null: the description of comm.cluster) says
// is cheapest, and of several micro-batches the one with the shortest step. It offloads where memory.host_budget is
// given. How much is sent at once follows from the links of comm.cluster; where it names none, from `measured`, if that
// covers the collectives of these programs and they fit; otherwise it is as usual. Ranks with other budgets choose
// alike: sizes as if the state were shared equally (even_arena_bytes()), then the shares. `recompute`, if it is not
// null, has the choice of recomputation then, and is left alone where none was made; `effort` is how it is made.
ProgramOptions choose_programs(const Config& config, const Place& place, Purpose purpose, const RankBudgets& budgets,
                               std::int64_t outside_bytes, std::int64_t host_bytes = kNoHostLimit,
                               const CostModel* costs = nullptr,
                               std::shared_ptr<const ProfiledCosts> measured = nullptr,
                               std::optional<RecomputeChoice>* recompute = nullptr, Effort effort = Effort::Thorough);

// memory.reserve, where it was given, is at least least_outside_bytes() of the backend, so that the budget is held to
// the end: else Error(OutOfMemory).
void check_reserve(const Config& config, std::int64_t least_bytes);

// Why nothing that the configuration leaves open fits, of the least that was found; nullopt: something does. Bytes do
// not depend on costs, so those of a description do, and a run that does not fit measures and allocates nothing.
// Arguments as above; `config` may still say `parallel: auto`.
std::optional<Infeasible> find_infeasible(const Config& config, const Place& place, Purpose purpose,
                                          const RankBudgets& budgets, std::int64_t outside_bytes,
                                          std::int64_t host_bytes);

// memory.budget, of a list the least, or by default 80 % of the memory that a rank may count on now (free_bytes() of
// its backend), of a device with memory of its own 95 %: nothing else will ask for it.
std::int64_t choose_budget(const Config& config, const Backend& backend);
// memory.budget of all ranks; 0 where it is auto. `config` went through check_for_ranks(), and has a layout.
RankBudgets given_budgets(const Config& config, int ranks);
// memory.host_budget, or by default 80 % of a rank's share of the free host memory, less `budget_bytes` where these are
// host memory too.
std::int64_t choose_host_budget(const Config& config, const Place& place, const Backend& backend,
                                std::int64_t budget_bytes);

}  // namespace plimsoll
