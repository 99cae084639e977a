#pragma once
// Published models by name. Numbers are those of the config.json next to the published weights, except dropout, which
// is 0.

#include <optional>
#include <string>
#include <vector>

#include "runtime/model/config.hpp"

namespace plimsoll {

std::vector<std::string> model_preset_names();
// The preset with its name in `preset`; nullopt for an unknown name.
std::optional<ModelConfig> find_model_preset(const std::string& name);
// The same; throws Error(Config) with the nearest name.
ModelConfig model_preset(const std::string& name);

}  // namespace plimsoll
