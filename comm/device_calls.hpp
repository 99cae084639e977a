#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "comm/watchdog.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

// The calls that a device has in its queue, for the watchdog: each lies between two events, so that poll() sees when
// the device comes to it and when it is done. What takes long counts only in between. Under a lock of the owner.
class DeviceCalls {
 public:
  explicit DeviceCalls(Device& device) {
    for (Entry& e : ring_) e.begin = device.make_event(), e.end = device.make_event();
  }
  // When too many are in flight, this one is not watched.
  void begin(Stream& stream, std::string_view op, const char* label, std::int64_t bytes, int peer) {
    open_ = last_ - first_ < kMost;
    if (!open_) return;
    Entry& e = ring_[last_ % kMost];
    e.op = op, e.label = label, e.bytes = bytes, e.peer = peer;
    stream.record(*e.begin);
  }
  void end(Stream& stream) {
    if (open_) stream.record(*ring_[last_++ % kMost].end);
    open_ = false;
  }
  void poll(WatchedGroup* watch) {
    for (; first_ < last_; ++first_) {
      const Entry& e = ring_[first_ % kMost];
      if (!e.begin->ready()) return;
      if (!running_) running_.emplace(watch, e.op, e.label, e.bytes, e.peer);
      if (!e.end->ready()) return;
      running_.reset();
    }
  }

 private:
  struct Entry {
    std::unique_ptr<Event> begin, end;
    std::string_view op;
    const char* label = "";
    std::int64_t bytes = 0;
    int peer = -1;
  };
  static constexpr std::size_t kMost = 64;
  std::array<Entry, kMost> ring_;
  std::size_t first_ = 0, last_ = 0;
  bool open_ = false;
  std::optional<Watchdog::Call> running_;
};

}  // namespace plimsoll
