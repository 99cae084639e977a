// The one place where errors end: every failure of every rank arrives here as an exception and leaves as an exit code.

#include <chrono>
#include <csignal>
#include <exception>
#include <thread>

#include "launch/bootstrap.hpp"
#include "launch/cli.hpp"
#include "launch/failure.hpp"
#include "launch/process.hpp"
#include "launch/trainer.hpp"
#include "runtime/core/log.hpp"

namespace plimsoll {
namespace {

FailureContext failure_context(const MpiSession* mpi, const CommandContext& command) {
  FailureContext where;
  where.rank = mpi != nullptr ? mpi->rank() : 0;
  where.host = host_name();
  where.step = current_step();
  where.run_dir = command.run_dir;
  return where;
}

// A rank hangs: this one leaves from the watchdog's thread, since its others may wait forever.
void fail_when_stalled(const MpiSession& mpi, const CommandContext& command) {
  mpi.watchdog().start([&](const Stall& stall) {
    FailureContext where = failure_context(&mpi, command);
    where.silent = stall.told_by_another;
    fail_run(where, Error(stall.kind, stall.text), [&](int code) {
      // Those that are alive write their reasons first.
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      mpi.abort(code);
    });
  });
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  ensure_environment(argv);
  // A file beyond the limit of its size is then an error of write(), said like any other.
  std::signal(SIGXFSZ, SIG_IGN);
  CommandContext context;
  std::unique_ptr<MpiSession> mpi;
  try {
    mpi = std::make_unique<MpiSession>();
    log_configure(LogLevel::Info, mpi->rank(), mpi->size());
    if (mpi->size() > 1) fail_when_stalled(*mpi, context);
    return run_command(argc, argv, *mpi, context);
  } catch (const std::exception& error) {
    FailureContext where = failure_context(mpi.get(), context);
    // What all ranks found, one of them says.
    constexpr double kSecondsForOthers = 1;
    if (mpi)
      where.silent = is_printed_by_another(mpi->gather_failures(failure_hash(error), kSecondsForOthers), where.rank);
    fail_run(where, error, [&](int code) {
      if (mpi) mpi->abort(code);
    });
  }
}
