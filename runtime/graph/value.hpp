#pragma once
// What memory a graph is about: values, and the class of the report each belongs to.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/tensor/spec.hpp"

namespace plimsoll {

using ValueId = std::int32_t;
inline constexpr ValueId kNoValue = -1;

// What memory is for. The names are those of the report and of summary.json.
enum class MemoryClass : std::uint8_t {
  Parameters,
  Gradients,
  Optimizer,
  Activations,
  Transients,
  Communication,
  Workspace,
  KvCache,
  Staging,
  Offloaded  // in the host arena; all others are in the arena of the device
};
inline constexpr std::array<std::string_view, 10> kMemoryClassNames{
    "parameters",    "gradients", "optimizer", "activations", "transients",
    "communication", "workspace", "kv_cache",  "staging",     "offloaded"};

// A tensor's memory. A value may be written more than once (a gradient that several consumers add to); a value with a
// base is a part of, or shares, the memory of that one.
struct Value {
  std::string name;
  TensorSpec spec;
  bool persistent = false;  // lives for the whole run; programs share persistent values of the same name
  MemoryClass memory = MemoryClass::Transients;  // of values that are not persistent: set by classify_memory()
  ValueId base = kNoValue;
  std::int64_t byte_offset = 0;  // in base
  int layer = -1;
  bool host = false;  // lies in the host arena: only copies touch it
};

}  // namespace plimsoll
