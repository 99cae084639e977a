// The one place where errors end: every failure of every rank arrives here as an exception and leaves as an exit code.

#include <exception>

#include "launch/bootstrap.hpp"
#include "launch/cli.hpp"
#include "launch/failure.hpp"
#include "launch/process.hpp"
#include "launch/trainer.hpp"
#include "runtime/core/log.hpp"

int main(int argc, char** argv) {
  using namespace plimsoll;
  ensure_environment(argv);
  CommandContext context;
  std::unique_ptr<MpiSession> mpi;
  try {
    mpi = std::make_unique<MpiSession>();
    log_configure(LogLevel::Info, mpi->rank(), mpi->size());
    return run_command(argc, argv, *mpi, context);
  } catch (const std::exception& error) {
    FailureContext where;
    where.rank = mpi ? mpi->rank() : 0;
    where.host = host_name();
    where.step = current_step();
    where.run_dir = context.run_dir;
    // What all ranks found, one of them says.
    constexpr double kSecondsForOthers = 1;
    if (mpi)
      where.silent = is_printed_by_another(mpi->gather_failures(failure_hash(error), kSecondsForOthers), where.rank);
    fail_run(where, error, [&](int code) {
      if (mpi) mpi->abort(code);
    });
  }
}
