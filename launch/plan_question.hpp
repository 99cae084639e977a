#pragma once
// What a plan was asked for: the keys of the configuration that it follows from, so that a run that asks something else
// is told which key differs.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "launch/config.hpp"

namespace plimsoll {

// Key → value as text, `auto` where it says so: every key but those that change neither a byte nor a predicted time
// (learning rates, paths of data, how often something is saved …). Of data.validation and of numbers that switch a part
// of the update on only whether they do. `config` went through check_for_ranks() and complete_vocabulary(), and nothing
// was chosen yet.
nlohmann::json plan_question(const Config& config);

// Error(Config) names the first key that `config` gives another value than `asked`, with both; what it leaves `auto`, a
// plan answers, whatever it was asked. `name`: of the plan.
void check_question(const nlohmann::json& asked, const Config& config, const std::string& name);

}  // namespace plimsoll
