#pragma once
// A written plan as the guide of a run: plan.json of its directory when it is resumed, or the file of train --plan.
//
// Both are files that people may edit. A value of the wrong type, or a number that no plan can have, is
// Error(BadData) that names the file and the value's place in it; MissingInput where there is no such file.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "launch/config.hpp"

namespace plimsoll {

// Writes `plan` for train --plan. Error(CheckpointIo); where `careful` a warning instead, as for a file that is there
// and that `plimsoll plan` did not write: it stays. Was it written?
bool write_plan(const std::filesystem::path& file, const nlohmann::json& plan, bool careful);

// A run that has checkpoints goes on with what its plan.json chose where `config` says auto (parallel,
// parallel.shares, parallel.state_shares, memory.recompute, train.micro_batch, memory.logits): memory that is free
// today, and who is slow today, must not change its bits. A plan for another number of ranks is no guide.
void keep_plan_choices(Config& config, int ranks);

// The run is to be exactly the one that `plimsoll plan --out` or a run planned: `config`, which went through
// complete_vocabulary(), gets all its choices, its cluster and its threads where it says auto. Error(Config) names the
// first key of which it says anything else than the plan was asked for (launch/plan_question.hpp).
void follow_plan(Config& config, int ranks, const std::filesystem::path& file);
// `mine`: plan_json() of the run. Error(Config), naming the first difference, unless mesh, sizes and the bytes of every
// rank are those of the plan that was followed: what no key says, such as another build.
void check_followed(const nlohmann::json& mine, const std::filesystem::path& file);

}  // namespace plimsoll
