#pragma once
// What no single key can say: contradictions between values, and what this build does not do.

#include <string>
#include <vector>

#include "launch/config.hpp"

namespace plimsoll {

// Values that exclude each other, whatever the machine. Keys are full names.
std::vector<ConfigIssue> contradictions(const Config& config);
// Contradictions that show once the number of ranks is known.
std::vector<ConfigIssue> rank_contradictions(const Config& config, int ranks);
// Explicit values that this build cannot honour. One table; a line goes when its feature arrives.
std::vector<ConfigIssue> unsupported_values(const Config& config);
// Lines on what was given and has no effect on so many replicas, on the device or in the precision, for the report of a
// plan; empty: all has. No error, since a configuration is for any number of ranks and for both devices.
std::string idle_text(const Config& config, std::int64_t replicas);
// Replaces each `auto` that this build decides without looking at ranks or memory; `parallel: auto` is not among them
// (launch/layout_choice.hpp).
void resolve_automatic(Config& config);

}  // namespace plimsoll
