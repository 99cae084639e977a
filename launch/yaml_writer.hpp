#pragma once
// A tree of configuration values as YAML that read_yaml() reads back to the same tree: a block of sections, each a
// block of keys, deeper values in flow style.

#include <string>

#include "runtime/core/config_node.hpp"

namespace plimsoll {

std::string write_yaml(const ConfigNode& root);

}  // namespace plimsoll
