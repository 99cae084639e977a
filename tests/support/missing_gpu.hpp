#pragma once
// Tests that need a GPU skip where there is none. That is decided before they begin: what a device does afterwards is
// theirs.

#include <cstdlib>
#include <optional>
#include <string>

#include "kernels/cuda_module.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll::test {

// Why there is no GPU to be used here; nullopt: there is one. Decided once per process. With PLIMSOLL_GPU_REQUIRED, set
// where a GPU has been found, nullopt in any case: the test then fails with what is wrong with it.
inline std::optional<std::string> missing_gpu() {
  static const auto missing = []() -> std::optional<std::string> {
    if (std::getenv("PLIMSOLL_GPU_REQUIRED") != nullptr) return std::nullopt;
    try {
      cuda_module().devices();
      return std::nullopt;
    } catch (const Error& e) {
      return e.what();
    }
  }();
  return missing;
}

}  // namespace plimsoll::test
