#pragma once
// Without fmt: device code includes it.

#include <cstdint>

namespace plimsoll {

enum class Activation : std::uint8_t { None, GeluTanh, GeluErf, Silu, Relu };

}  // namespace plimsoll
