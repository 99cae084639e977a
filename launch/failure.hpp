#pragma once
// How a run fails: one line, a reason file, an exit code; and no rank is left hanging.

#include <cstdint>
#include <exception>
#include <functional>
#include <string>

namespace plimsoll {

struct FailureContext {
  int rank = 0;
  std::string host;
  std::int64_t step = -1;  // −1: not in a step
  std::string run_dir;     // empty: no reason file
};

// Prints `FATAL code=NN kind=… rank=… host=… step=… file=…: text`, writes exit_reason.<rank>.json into the run
// directory when that exists (temp + rename), calls `abort_peers(code)` (MPI_Abort) and leaves the process with the
// code, after 2 s at the latest. Exceptions that are no Error are defects (70), std::bad_alloc is out of memory (71).
[[noreturn]] void fail_run(const FailureContext& context, const std::exception& error,
                           const std::function<void(int)>& abort_peers);

}  // namespace plimsoll
