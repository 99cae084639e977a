#include "tests/support/golden.hpp"

#include <cstdlib>

namespace plimsoll::test {

std::optional<std::filesystem::path> shared_folder() {
  const char* named = std::getenv("PLIMSOLL_SHARED");
  const std::filesystem::path folder =
      named != nullptr ? std::filesystem::path(named) : std::filesystem::path(PLIMSOLL_SOURCE_DIR) / ".." / "shared";
  if (!std::filesystem::is_directory(folder)) return std::nullopt;
  return folder;
}

}  // namespace plimsoll::test
