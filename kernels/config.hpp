#pragma once
// The cuda section of a configuration.

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class CudaGraphs { Auto, Off };
constexpr std::array<EnumName, 2> enum_names(CudaGraphs) {
  return {named(CudaGraphs::Auto, "auto"), named(CudaGraphs::Off, "off")};
}

struct CudaConfig {
  bool share = false;
  CudaGraphs graphs = CudaGraphs::Auto;
  bool tf32 = false;
  bool operator==(const CudaConfig&) const = default;
};

KeyTable<CudaConfig> cuda_keys();

}  // namespace plimsoll
