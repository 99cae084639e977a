#pragma once
// A link on which large messages take long.

#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "comm/transport.hpp"

namespace plimsoll::test {

// Waits before messages of at least so many bytes in all.
class SlowTransport : public Transport {
 public:
  SlowTransport(std::shared_ptr<Transport> inner, std::int64_t slow_bytes)
      : inner_(std::move(inner)), slow_bytes_(slow_bytes) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override {
    std::int64_t bytes = 0;
    for (const Message& m : sends) bytes += m.bytes;
    if (bytes >= slow_bytes_) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    inner_->start(slot, sends, receives);
  }
  void finish(int slot) override { inner_->finish(slot); }

 private:
  std::shared_ptr<Transport> inner_;
  std::int64_t slow_bytes_;
};

}  // namespace plimsoll::test
