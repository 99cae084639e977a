#pragma once
#include <string>
#include <vector>

namespace plimsoll {

// The libraries that the kernels are built with, in use or not, each with the version that runs: "libxsmm 1.17".
std::vector<std::string> kernel_libraries();

}  // namespace plimsoll
