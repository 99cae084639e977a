#include "runtime/exec/stream_times.hpp"

#include <cmath>
#include <utility>

namespace plimsoll {
namespace {

std::int64_t nanoseconds(double seconds) { return std::llround(seconds * 1e9); }

}  // namespace

StreamTimes::StreamTimes(Device& device, Stream& compute, Profile& profile)
    : device_(device), profile_(profile), base_(device.make_timer()) {
  base_->start(compute);
  base_->stop(compute);
  base_->seconds();
  base_ns_ = Profile::now_ns();
}

StreamTimes::Span& StreamTimes::begin(int row, Stream& stream) {
  read_finished();
  if (free_.empty()) free_.push_back(&spans_.emplace_back(Span{device_.make_timer(), -1, nullptr, false}));
  Span& span = *free_.back();
  free_.pop_back();
  span.row = row;
  span.stream = &stream;
  span.ended = false;
  span.timer->start(stream);
  flying_.push_back(&span);
  return span;
}

void StreamTimes::end(Span& span) {
  span.timer->stop(*span.stream);
  span.ended = true;
}

void StreamTimes::read_finished() {
  while (!flying_.empty() && flying_.front()->ended && flying_.front()->timer->done()) {
    Span& span = *flying_.front();
    const std::int64_t begin = base_ns_ + nanoseconds(span.timer->seconds_after(*base_));
    profile_.record(span.row, begin, begin + nanoseconds(span.timer->seconds()));
    flying_.pop_front();
    free_.push_back(&span);
  }
}

void StreamTimes::collect() {
  read_finished();
  if (!flying_.empty() || free_.empty()) return;
  // What was read last becomes the base: nothing that is still to come began before it.
  Span& last = *free_.back();
  base_ns_ += nanoseconds(last.timer->seconds_after(*base_));
  std::swap(base_, last.timer);
}

}  // namespace plimsoll
