#pragma once
#include <string>

namespace plimsoll {

// Build, devices, libraries, and what ensure_environment() changed.
std::string info_text(const std::string& mpi_version, bool json);

}  // namespace plimsoll
