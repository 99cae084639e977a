#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// Offload: y = x between the arena of the device and the one in host memory, on the copy stream. A rewrite puts them
// into a graph that has its backward (runtime/graph/offload.hpp).
struct HostCopy : OpDefaults {
  struct Attrs {};
  static constexpr bool copies = true;
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"y", Role::Output}};
  static void infer(const Attrs&, SlotSpecs& s) { s.set(kY, s[kX]); }
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::vector<Sample<Attrs>> samples() {
    return {make_sample(Attrs{}, {{kX, {3, 5, 7}}}), make_sample(Attrs{}, {{kX, {1}}})};
  }
};
// x on the device, y in host memory.
struct ToHost : HostCopy {
  static constexpr std::string_view name = "to_host";
};
// x in host memory, y on the device.
struct FromHost : HostCopy {
  static constexpr std::string_view name = "from_host";
};

}  // namespace plimsoll
