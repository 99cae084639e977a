#pragma once
// How a run fails: one line, a reason file, an exit code; and no rank is left hanging.

#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>

namespace plimsoll {

struct FailureContext {
  int rank = 0;
  std::string host;
  std::int64_t step = -1;  // −1: not in a step
  std::string run_dir;     // empty: no reason file
  bool silent = false;     // a lower rank prints the same line
};

// Of kind and text: equal on ranks that fail for the same reason.
std::uint64_t failure_hash(const std::exception& error);
// Whether a rank below `rank` failed with the same hash; `all` as MpiSession::gather_failures() returns it.
bool is_printed_by_another(std::span<const std::uint64_t> all, int rank);

// Removes the reason files of earlier failures from a run directory: every rank its own, rank 0 also those of ranks
// that this run does not have.
void clear_exit_reasons(const std::string& run_dir, int rank, int ranks);

// Prints `FATAL code=NN kind=… rank=… host=… step=… file=…: text`, writes exit_reason.<rank>.json into the run
// directory when that exists (temp + rename; out of memory, a budget that nothing fits, makes it), calls
// `abort_peers(code)` (MPI_Abort) and leaves the process with the code, after 2 s at the latest. A silent rank prints
// nothing and gives the one that prints 1 s to end the run. Exceptions that are no Error are defects (70),
// std::bad_alloc is out of memory (71).
[[noreturn]] void fail_run(const FailureContext& context, const std::exception& error,
                           const std::function<void(int)>& abort_peers);

}  // namespace plimsoll
