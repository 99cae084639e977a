#pragma once
// Which run a checkpoint belongs to, key by key, so that a refusal can say what differs.

#include <string>
#include <vector>

#include "launch/config.hpp"

namespace plimsoll {

// JSON text {"fixed": {key: value…}, "changeable": {…}}. Fixed is what decides the function that is trained and the
// order of its data: the model, precision, seed, batch, optimizer's name, and the data as file names with their sizes
// (so that they may move to another folder). Changeable is what a person may change at a checkpoint on purpose: the
// optimizer's and the schedule's numbers and train.steps.
std::string run_identity(const Config& config);

// Error(Config) with every fixed key that differs and both values when `stored` is of another run than `config`;
// otherwise a line for every changeable key that differs. `name` stands for the checkpoint in the error.
std::vector<std::string> compare_identity(const std::string& stored, const Config& config, const std::string& name);

}  // namespace plimsoll
