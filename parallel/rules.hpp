#pragma once
// Which layouts a model, a batch and a number of ranks allow: the one place that knows, for configurations that people
// write and for those that the layout planner tries. Keys are full names ("parallel.tensor").

#include <optional>
#include <string>
#include <vector>

#include "parallel/config.hpp"
#include "runtime/model/config.hpp"

namespace plimsoll {

// What holds on any number of ranks. The model may still have zeros where it says `auto`.
std::vector<ConfigIssue> layout_issues(const ParallelConfig& parallel, const ModelConfig& model,
                                       std::int64_t sequence_tokens);

// What holds on `ranks` ranks; batches in sequences.
std::vector<ConfigIssue> rank_issues(const ParallelConfig& parallel, int ranks, std::int64_t global_batch,
                                     std::optional<std::int64_t> micro_batch);

// ZeRO 2 and 3 with replicas that have, or may get, other numbers of micro-batches; nullopt when it is neither.
std::optional<std::string> zero_shares_fault(const ParallelConfig& parallel);

}  // namespace plimsoll
