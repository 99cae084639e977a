#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "comm/transport.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

// What all ranks share: a queue of offered messages per ordered pair. The receiver copies straight out of the sender's
// buffer.
struct Exchange {
  struct Offer {
    const void* data;
    std::int64_t bytes;
    bool* taken;  // under the mutex
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::vector<Offer>> queues;  // short: two exchanges are in flight at most
  int copies = 0;                          // in progress, outside the mutex
  bool aborted = false;
};

class LocalTransport : public Transport {
 public:
  LocalTransport(std::shared_ptr<Exchange> shared, int rank, int size)
      : shared_(std::move(shared)), rank_(rank), size_(size) {
    for (auto& slot : pending_) slot.make_room(static_cast<std::size_t>(size));
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override {
    Pending& p = pending_[slot];
    p.make_room(std::max(sends.size(), receives.size()));
    p.receives.assign(receives.begin(), receives.end());
    p.sends = sends.size();
    {
      const std::lock_guard lock(shared_->mutex);
      for (std::size_t i = 0; i < sends.size(); ++i) {
        p.taken[i] = false;
        queue(rank_, sends[i].peer).push_back({sends[i].data, sends[i].bytes, &p.taken[i]});
        bytes_sent_ += sends[i].bytes;
      }
    }
    shared_->changed.notify_all();
  }

  void finish(int slot) override {
    Pending& p = pending_[slot];
    for (const Message& m : p.receives) receive(m);
    std::unique_lock lock(shared_->mutex);
    wait(lock, [&] {
      for (std::size_t i = 0; i < p.sends; ++i) {
        if (!p.taken[i]) return false;
      }
      return true;
    });
  }

  // No copy begins after this, and none is in progress when it returns: the caller's buffers may go.
  void abort() {
    std::unique_lock lock(shared_->mutex);
    abort(lock);
  }

 private:
  struct Pending {
    std::vector<Message> receives;
    std::unique_ptr<bool[]> taken;
    std::size_t sends = 0, room = 0;
    // Between exchanges, when nobody looks at `taken`.
    void make_room(std::size_t messages) {
      if (messages <= room) return;
      room = messages;
      taken = std::make_unique<bool[]>(room);
      receives.reserve(room);
    }
  };

  std::vector<Exchange::Offer>& queue(int from, int to) {
    return shared_->queues[static_cast<std::size_t>(from * size_ + to)];
  }

  void abort(std::unique_lock<std::mutex>& lock) {
    shared_->aborted = true;
    shared_->changed.notify_all();
    shared_->changed.wait(lock, [&] { return shared_->copies == 0; });
  }

  // Peers may be reading this rank's buffers, which unwinding frees: an exception leaves only through here.
  [[noreturn]] void leave(std::unique_lock<std::mutex>& lock, ErrorKind kind, const std::string& text) {
    abort(lock);
    fail(kind, "{}", text);
  }
  [[noreturn]] void leave_lost(std::unique_lock<std::mutex>& lock) {
    leave(lock, ErrorKind::PeerLost, fmt::format("rank {}: this rank or another one of this process failed", rank_));
  }

  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, const Condition& condition) {
    constexpr std::chrono::milliseconds kPoll{50};
    while (!condition()) {
      if (shared_->aborted || stop_requested()) leave_lost(lock);
      shared_->changed.wait_for(lock, kPoll);
    }
  }

  void receive(const Message& m) {
    std::unique_lock lock(shared_->mutex);
    auto& offers = queue(m.peer, rank_);
    wait(lock, [&] { return !offers.empty(); });
    if (shared_->aborted) leave_lost(lock);
    const Exchange::Offer offer = offers.front();
    offers.erase(offers.begin());
    if (offer.bytes != m.bytes) {
      leave(lock, ErrorKind::Internal,
            fmt::format("rank {} expects {} bytes from rank {}, which sent {}", rank_, m.bytes, m.peer, offer.bytes));
    }
    ++shared_->copies;
    lock.unlock();
    std::memcpy(m.data, offer.data, static_cast<std::size_t>(m.bytes));
    lock.lock();
    --shared_->copies;
    *offer.taken = true;
    shared_->changed.notify_all();
  }

  std::shared_ptr<Exchange> shared_;
  int rank_, size_;
  Pending pending_[2];
};

class SelfTransport : public Transport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void start(int, std::span<const Message> sends, std::span<const Message> receives) override {
    require(sends.empty() && receives.empty(), ErrorKind::Internal, "a group of one rank has nobody to talk to");
  }
  void finish(int) override {}
};

}  // namespace

std::shared_ptr<Transport> make_self_transport() { return std::make_shared<SelfTransport>(); }

std::vector<std::shared_ptr<Transport>> make_local_transports(int ranks) {
  auto shared = std::make_shared<Exchange>();
  shared->queues.resize(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks));
  for (auto& queue : shared->queues) queue.reserve(2);
  std::vector<std::shared_ptr<Transport>> all;
  all.reserve(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) all.push_back(std::make_shared<LocalTransport>(shared, r, ranks));
  return all;
}

void abort_local(Transport& transport) {
  if (auto* local = dynamic_cast<LocalTransport*>(&transport)) local->abort();
}

void FakeTransport::start(int, std::span<const Message> sends, std::span<const Message> receives) {
  FakeCall call;
  for (const Message& m : sends) call.sent_bytes += m.bytes;
  for (const Message& m : receives) call.received_bytes += m.bytes;
  bytes_sent_ += call.sent_bytes;
  calls_.push_back(call);
}

}  // namespace plimsoll
