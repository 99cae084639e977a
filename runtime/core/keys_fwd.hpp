#pragma once
// What a header with a configuration struct needs of runtime/core/keys.hpp.

#include <string>

namespace plimsoll {

template <class Section>
struct KeyTable;

// A contradiction between values: the key to point at ("schedule.warmup") and what is wrong with it.
struct ConfigIssue {
  std::string key;
  std::string text;
};

}  // namespace plimsoll
