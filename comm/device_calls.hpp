#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string_view>

#include "comm/watchdog.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

// The calls that a device has in its queue, for the watchdog: each lies between two events, so that poll() sees when
// the device comes to it and when it is done. What takes long counts only in between. Under a lock of the owner, who
// polls again and again.
class DeviceCalls {
 public:
  explicit DeviceCalls(Device& device) : device_(device) {}
  void begin(Stream& stream, std::string_view op, const char* label, std::int64_t bytes, int peer) {
    if (done_.empty()) done_.push_back({device_.make_event(), device_.make_event()});
    Entry& e = done_.front();
    e.op = op, e.label = label, e.bytes = bytes, e.peer = peer;
    stream.record(*e.begin);
  }
  // After begin(), unless asking for the call failed.
  void end(Stream& stream) {
    stream.record(*done_.front().end);
    in_flight_.splice(in_flight_.end(), done_, done_.begin());
  }
  void poll(WatchedGroup* watch) {
    while (!in_flight_.empty()) {
      Entry& e = in_flight_.front();
      if (!e.begin->ready()) return;
      if (!running_) running_.emplace(watch, e.op, e.label, e.bytes, e.peer);
      if (!e.end->ready()) return;
      running_.reset();
      done_.splice(done_.begin(), in_flight_, in_flight_.begin());
    }
  }

 private:
  struct Entry {
    std::unique_ptr<Event> begin, end;
    std::string_view op = {};
    const char* label = "";
    std::int64_t bytes = 0;
    int peer = -1;
  };
  Device& device_;
  // As many as the host is ahead of the device; those that are done are used again.
  std::list<Entry> in_flight_, done_;
  std::optional<Watchdog::Call> running_;
};

}  // namespace plimsoll
