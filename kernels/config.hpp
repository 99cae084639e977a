#pragma once
// The cuda section of a configuration.

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class CudaUse { Auto, Off };
constexpr std::array<EnumName, 2> enum_names(CudaUse) {
  return {named(CudaUse::Auto, "auto"), named(CudaUse::Off, "off")};
}

struct CudaConfig {
  bool share = false;
  CudaUse graphs = CudaUse::Auto, aware_mpi = CudaUse::Auto, epilogues = CudaUse::Auto;
  bool tf32 = false;
  bool operator==(const CudaConfig&) const = default;
};

KeyTable<CudaConfig> cuda_keys();

}  // namespace plimsoll
