#pragma once
// The table of the whole configuration, put together from the sections' tables.

#include "launch/config.hpp"
#include "runtime/core/keys.hpp"

namespace plimsoll {

KeyTable<Config> config_keys();
// The documentation of every key; defaults that differ between model families name the family.
std::vector<KeyInfo> config_key_infos();

}  // namespace plimsoll
