#pragma once
// Spans of streams whose tasks only launch, for a profile, on the device's own clock. Nothing here waits for the
// device: what is over is read when the next span begins, and when the host has waited for the device anyway.

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "runtime/device/device.hpp"
#include "runtime/exec/profile.hpp"

namespace plimsoll {

class StreamTimes {
 public:
  struct Span {
    std::unique_ptr<Timer> timer;
    int row = -1;
    Stream* stream = nullptr;
    bool ended = false;
  };

  // Compares the clock of the device with the host's, which takes as long as `compute` has something to do. Device and
  // profile outlive it; the streams that it times must be gone, or idle, before it goes.
  StreamTimes(Device& device, Stream& compute, Profile& profile);

  // What `stream` is given until end() is a span of a row of the profile. Spans may nest, and end in any order. For one
  // thread of the host; not while the stream records.
  Span& begin(int row, Stream& stream);
  static void end(Span& span);
  // Tells the profile what is over. Called where no span is open and the streams are idle, all of it is.
  void collect();

 private:
  void read_finished();

  Device& device_;
  Profile& profile_;
  std::deque<Span> spans_;    // as many as ever were on their way at once
  std::deque<Span*> flying_;  // in the order in which they began
  std::vector<Span*> free_;
  // A moment of the device's clock on the host's. It moves on, since elapsed times of devices are floats.
  std::unique_ptr<Timer> base_;
  std::int64_t base_ns_ = 0;
};

}  // namespace plimsoll
