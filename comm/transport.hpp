#pragma once
// How bytes get from rank to rank within one group. An implementation moves messages between pairs; the collectives are
// built on that once, in comm/collectives.cpp, so that they give the same bits over every transport.

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/exec/reducer.hpp"
#include "runtime/tensor/spec.hpp"

namespace plimsoll {

// One message to or from `peer`; empty messages are not sent. Messages between a pair arrive in order.
struct Message {
  int peer = 0;
  void* data = nullptr;  // of a send: only read
  std::int64_t bytes = 0;
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

  // The transport's own reduction, as reference; false when it has none for this operation and type, on all ranks
  // alike.
  virtual bool native_all_reduce(View /*buffer*/, ReduceOp /*op*/) { return false; }

  std::int64_t bytes_sent() const { return bytes_sent_; }  // to other ranks, by all collectives

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
