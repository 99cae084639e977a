#include "runtime/core/error.hpp"

#include <algorithm>

namespace plimsoll {

const ExitCode& exit_code(ErrorKind kind) {
  const auto* row =
      std::find_if(kExitCodes.begin(), kExitCodes.end(), [&](const ExitCode& c) { return c.kind == kind; });
  return row != kExitCodes.end() ? *row : exit_code(ErrorKind::Internal);
}

}  // namespace plimsoll
