#pragma once
// YAML text → ConfigNode tree, on yaml-cpp's event stream: nothing is built before the limits were checked. Aliases,
// anchors, tags and second documents are refused, and a repeated key is a fault (yaml-cpp's own tree silently takes the
// first).

#include <cstddef>
#include <string>

#include "runtime/core/config_node.hpp"

namespace plimsoll {

inline constexpr std::size_t kMostYamlBytes = 1 << 20;
inline constexpr int kMostYamlDepth = 16;
inline constexpr int kMostYamlValues = 20000;

// Faults go to `errors`, with `name` as the source. After a fault of syntax or of a limit the result is Null. With
// `whole_source` all places are just the name (`--set a=b`) and have no line.
ConfigNode read_yaml(const std::string& text, const std::string& name, ConfigErrors& errors, bool whole_source = false);

// A file's text. Throws Error(MissingInput) when it cannot be read and Error(Config) when it is larger than
// kMostYamlBytes.
std::string read_yaml_file(const std::string& path);

// Sets the value at `a.b` of the tree `root` to c, as `a.b=c` says; c is YAML. Missing maps are made.
void apply_override(ConfigNode& root, const std::string& assignment, ConfigErrors& errors);

}  // namespace plimsoll
