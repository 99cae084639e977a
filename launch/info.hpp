#pragma once
#include <string>

namespace plimsoll {

// Of the sources, "-dirty" behind it where files differ from it; "unknown" outside a checkout.
const char* built_commit();

// Build, devices, libraries, and what ensure_environment() changed.
std::string info_text(const std::string& mpi_version, bool json);

}  // namespace plimsoll
