#pragma once
// Where reference data lies. Tests use ../shared when it is there (or PLIMSOLL_SHARED) and pass without it.

#include <filesystem>
#include <optional>

namespace plimsoll::test {

// The folder named by PLIMSOLL_SHARED, else ../shared beside the sources; nullopt when there is none.
std::optional<std::filesystem::path> shared_folder();

}  // namespace plimsoll::test
