// What a stream and a device do unless they do it otherwise: host code reaches the memory of the device and runs the
// tasks.

#include <chrono>
#include <cstring>

#include "runtime/core/error.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

class HostTimer final : public Timer {
 public:
  explicit HostTimer(Device& device) : stopped_(device.make_event()) {}
  void start(Stream& stream) override { stream.launch({read_clock, &begin_}); }
  void stop(Stream& stream) override {
    stream.launch({read_clock, &end_});
    stream.record(*stopped_);
  }
  bool done() const override { return stopped_->ready(); }
  double seconds() override {
    stopped_->synchronize();
    return std::chrono::duration<double>(end_ - begin_).count();
  }
  double seconds_after(const Timer& other) const override {
    return std::chrono::duration<double>(begin_ - static_cast<const HostTimer&>(other).begin_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static void read_clock(void* to) { *static_cast<Clock::time_point*>(to) = Clock::now(); }

  std::unique_ptr<Event> stopped_;
  Clock::time_point begin_, end_;
};

}  // namespace

std::unique_ptr<Timer> Device::make_timer() { return std::make_unique<HostTimer>(*this); }

void Stream::copy(const Transfer& transfer) {
  launch({[](void* t) {
            const auto* mine = static_cast<const Transfer*>(t);
            if (mine->bytes > 0) std::memcpy(mine->to, mine->from, static_cast<std::size_t>(mine->bytes));
          },
          const_cast<Transfer*>(&transfer)});
}

void Stream::fill(void* device, std::uint8_t byte, std::int64_t bytes) {
  if (bytes > 0) std::memset(device, byte, static_cast<std::size_t>(bytes));
}

void Stream::copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride,
                         std::int64_t bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count && bytes > 0; ++i) {
    std::memcpy(static_cast<std::byte*>(to) + i * to_stride, static_cast<const std::byte*>(from) + i * from_stride,
                static_cast<std::size_t>(bytes));
  }
}

std::unique_ptr<Recording> Stream::end_capture() { fail(ErrorKind::Internal, "this stream records nothing"); }
void Stream::replay(Recording&) { fail(ErrorKind::Internal, "this stream records nothing"); }

}  // namespace plimsoll
