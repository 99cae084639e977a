#pragma once
// One communicator of NCCL that never blocks: every call is followed until NCCL has accepted it, within a deadline, and
// every result is checked. What fails aborts the communicator, so that its work on the device ends, and names the call,
// the axis and the rank. Not for several threads at once.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "comm/nccl_api.hpp"

namespace plimsoll {

class NcclCommunicator {
 public:
  // `name`: what it is for, in texts: "axis data". `deadline`: seconds that a call has to be accepted. Waits for the
  // others of the group: Error(Device) when they do not come. `most_blocks`: of the device, that a call may take; 0: as
  // many as NCCL thinks fit.
  NcclCommunicator(NcclApi& api, std::string name, const NcclId& id, int rank, int ranks,
                   std::function<double()> deadline, int most_blocks = 0);
  // Aborts what close() has not closed: destructors never wait for others.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  NcclComm get() const { return comm_; }
  int rank() const { return rank_; }

  // Follows a call that gave `result` until it is accepted. Error(PeerLost), or Internal for what we asked wrongly.
  void settle(int result, const char* call);
  // Calls between group_start() and group_end(): body(add), where add(result, call) takes the result of each. The group
  // is always ended; then the first that failed is the error.
  template <class Body>
  void group(const Body& body) {
    settle(api_.group_start(), "ncclGroupStart");
    int worst = kNcclSuccess;
    const char* which = "";
    body([&](int result, const char* call) {
      if (worst == kNcclSuccess && result != kNcclSuccess && result != kNcclInProgress) worst = result, which = call;
    });
    const int ended = api_.group_end();
    if (worst != kNcclSuccess) settle(worst, which);
    settle(ended, "ncclGroupEnd");
  }

  // Registered memory moves without copies where NCCL can use it: over networks, and over NVLink memory of cudaMalloc
  // not from 2.24 on, whatever it answers (its NCCL_LEGACY_CUDA_REGISTER). False: NCCL refuses it, and copies. The
  // ranks of a communicator all have it registered, or none of them.
  bool register_memory(void* memory, std::int64_t bytes);
  void deregister_memory();  // if it is
  // An error that NCCL has found since, once: the communicator is then aborted.
  std::optional<std::string> fault();
  // Error(PeerLost) with the text of what aborted it.
  void require_alive() const;
  void abort() noexcept;
  // Waits for the others, within the deadline, until NCCL is quiet, then frees it. With all work on the device done.
  void close();

 private:
  std::string describe(const char* call, const std::string& text) const;
  void wait_until_accepted(int& result, const char* call);

  NcclApi& api_;
  std::string name_;
  int rank_, ranks_;
  std::function<double()> deadline_;
  NcclComm comm_ = nullptr;
  void* registered_ = nullptr;
  std::string fault_;  // what it was aborted for
};

}  // namespace plimsoll
