#include "comm/nccl_communicator.hpp"

#include <chrono>
#include <thread>
#include <utility>

#include "runtime/core/error.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

NcclCommunicator::NcclCommunicator(NcclApi& api, std::string name, const NcclId& id, int rank, int ranks,
                                   std::function<double()> deadline, int most_blocks)
    : api_(api), name_(std::move(name)), rank_(rank), ranks_(ranks), deadline_(std::move(deadline)) {
  try {
    settle(api_.comm_init_rank(comm_, ranks, id, rank, name_.c_str(), most_blocks), "ncclCommInitRankConfig");
  } catch (const Error& error) {
    throw Error(ErrorKind::Device, error.what(), error.where());  // nothing has been lost yet: it did not start
  }
}

NcclCommunicator::~NcclCommunicator() { abort(); }

std::string NcclCommunicator::describe(const char* call, const std::string& text) const {
  return fmt::format("{} over {}, rank {} of {}: {}", call, name_, rank_, ranks_, text);
}

void NcclCommunicator::wait_until_accepted(int& result, const char* call) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const double deadline = deadline_();
  while (result == kNcclInProgress) {
    const double waited = std::chrono::duration<double>(Clock::now() - begin).count();
    if (waited > deadline || stop_requested()) {
      fault_ = describe(call, stop_requested() ? "given up, as this rank failed elsewhere"
                                               : fmt::format("not accepted after {:.1f} s", waited));
      abort();
      fail(ErrorKind::PeerLost, "{}", fault_);
    }
    // A call of a step is accepted in microseconds; only to connect takes longer.
    if (waited < 1e-3) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    int state = kNcclSuccess;
    const int asked = api_.comm_get_async_error(comm_, state);
    result = asked == kNcclSuccess ? state : asked;
  }
}

void NcclCommunicator::settle(int result, const char* call) {
  require_alive();
  wait_until_accepted(result, call);
  if (result == kNcclSuccess) return;
  fault_ = describe(call, api_.error_text(result, comm_));
  abort();
  const bool ours = result == kNcclInvalidArgument || result == kNcclInvalidUsage;
  fail(ours ? ErrorKind::Internal : ErrorKind::PeerLost, "{}", fault_);
}

bool NcclCommunicator::register_memory(void* memory, std::int64_t bytes) {
  require_alive();
  void* handle = nullptr;
  const int result = api_.comm_register(comm_, memory, static_cast<std::size_t>(bytes), handle);
  if (result == kNcclInProgress) settle(result, "ncclCommRegister");
  if (result == kNcclSuccess || result == kNcclInProgress) registered_ = handle;
  return registered_ != nullptr;
}

void NcclCommunicator::deregister_memory() {
  if (comm_ == nullptr || registered_ == nullptr) return;
  settle(api_.comm_deregister(comm_, std::exchange(registered_, nullptr)), "ncclCommDeregister");
}

std::optional<std::string> NcclCommunicator::fault() {
  if (comm_ == nullptr) return std::nullopt;
  int state = kNcclSuccess;
  const int asked = api_.comm_get_async_error(comm_, state);
  const int result = asked == kNcclSuccess ? state : asked;
  if (result == kNcclSuccess || result == kNcclInProgress) return std::nullopt;
  fault_ = describe("work on the device", api_.error_text(result, comm_));
  abort();
  return fault_;
}

void NcclCommunicator::require_alive() const { require(fault_.empty(), ErrorKind::PeerLost, "{}", fault_); }

void NcclCommunicator::abort() noexcept {
  if (comm_ == nullptr) return;
  (void)api_.comm_abort(comm_);  // there is nothing left to do where that fails as well
  comm_ = nullptr;
}

void NcclCommunicator::close() {
  if (comm_ == nullptr) return;
  deregister_memory();
  // Finalizing marks the communicator as in progress until all ranks are quiet: its state counts, also where the call
  // says success.
  const int finalized = api_.comm_finalize(comm_);
  settle(finalized == kNcclSuccess ? kNcclInProgress : finalized, "ncclCommFinalize");
  // Then destroying is local. From here on the handle is the library's, and nobody may ask for its state: in progress
  // is freed behind our back, which is no failure.
  const int result = api_.comm_destroy(std::exchange(comm_, nullptr));
  require(result == kNcclSuccess || result == kNcclInProgress, ErrorKind::PeerLost, "{}",
          describe("ncclCommDestroy", api_.error_text(result, nullptr)));
}

}  // namespace plimsoll
