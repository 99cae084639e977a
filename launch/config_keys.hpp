#pragma once
// The table of the whole configuration, put together from the sections' tables.

#include <string>

#include "launch/config.hpp"
#include "runtime/core/keys.hpp"

namespace plimsoll {

KeyTable<Config> config_keys();
// A configuration as a JSON object, each value as its key is written: numbers and true or false as such, words as text.
std::string config_json(const Config& config);
// The documentation of every key; defaults that differ between model families name the family.
std::vector<KeyInfo> config_key_infos();

}  // namespace plimsoll
