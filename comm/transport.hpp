#pragma once
// How bytes get from rank to rank within one group. An implementation moves messages between pairs; the collectives are
// built on that once, in comm/collectives.cpp, so that they give the same bits over every transport. Where a library
// has collectives of its own, or memory is not the host's, an implementation has whole collectives as well.

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/exec/reducer.hpp"
#include "runtime/tensor/rank_cuts.hpp"
#include "runtime/tensor/spec.hpp"

namespace plimsoll {

// One message to or from `peer`; empty messages are not sent. Messages between a pair arrive in order.
struct Message {
  int peer = 0;
  void* data = nullptr;  // of a send: only read
  std::int64_t bytes = 0;
};

// Whole collectives, in the place of those over messages, with their arguments (comm/group.hpp), checked. False: none
// of this type and operation, on all ranks alike, and nothing was done; of device memory that is never the answer.
class WholeCollectives {
 public:
  virtual ~WholeCollectives() = default;
  virtual bool all_reduce(View x, ReduceOp op, const CallSite& at) = 0;
  // Ranges of x, rising.
  virtual bool all_reduce(View x, ReduceOp op, std::span<const ElementRange> ranges, const CallSite& at) = 0;
  virtual bool reduce_scatter(View in, View out, ReduceOp op, const RankCuts& cuts, const CallSite& at) = 0;
  virtual bool reduce_scatter(View in, View out, ReduceOp op, std::span<const JoinedPart> parts,
                              const CallSite& at) = 0;
  // `in` may lie at its place in `out`.
  virtual bool all_gather(View in, View out, const RankCuts& cuts, const CallSite& at) = 0;
  virtual bool all_gather(View in, View out, std::span<const JoinedPart> parts, const CallSite& at) = 0;
  virtual bool send(View x, int peer, const CallSite& at) = 0;
  virtual bool receive(View x, int peer, const CallSite& at) = 0;
  // True: calls return before they are done, and the watchdog is told by the transport.
  virtual bool returns_early() const { return false; }
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Starts sends and receives; they are complete after finish(). At most two exchanges are in flight, finished in
  // order; each of two threads may use one slot. `slot` is 0 or 1. Buffers stay untouched in between. Throws
  // Error(PeerLost) when a peer is gone, and on the thread of a stream that is being destroyed (stop_requested()).
  virtual void start(int slot, std::span<const Message> sends, std::span<const Message> receives) = 0;
  virtual void finish(int slot) = 0;

  // Null: collectives of `at` are made of messages.
  virtual WholeCollectives* whole(const CallSite& /*at*/) { return nullptr; }

  // To other ranks, by all collectives; of a library's own, what messages would have sent.
  virtual std::int64_t bytes_sent() const { return bytes_sent_; }

 protected:
  std::atomic<std::int64_t> bytes_sent_{0};
};

std::shared_ptr<Transport> make_self_transport();

// Ranks as threads of this process: transport i is that of rank i. A rank that fails calls abort_local() before its
// buffers go: the waits of all others throw Error(PeerLost), so that nothing hangs. Destroying a transport wakes
// nobody.
std::vector<std::shared_ptr<Transport>> make_local_transports(int ranks);
void abort_local(Transport& transport);

// Records what is asked for and does nothing.
struct FakeCall {
  std::int64_t sent_bytes = 0, received_bytes = 0;
};
class FakeTransport : public Transport {
 public:
  FakeTransport(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override;
  void finish(int) override {}
  const std::vector<FakeCall>& calls() const { return calls_; }

 private:
  int rank_, size_;
  std::vector<FakeCall> calls_;
};

}  // namespace plimsoll
