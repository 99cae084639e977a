#include "runtime/exec/stream_times.hpp"

#include <gtest/gtest.h>

#include "runtime/core/error.hpp"
#include "tests/support/forwarding_device.hpp"

namespace plimsoll {
namespace {

constexpr double kMillisecond = 1e-3;

// A device of which the test says what time it is when something is given to a stream, and how far it has come. What
// has passed is a float of milliseconds, as CUDA says it.
class HandDevice final : public test::ForwardingDevice {
 public:
  HandDevice() : ForwardingDevice(make_cpu_device(1)) {}

  double now_s = 5000, reached_s = 1e9;
  int timers = 0;

  std::unique_ptr<Timer> make_timer() override {
    ++timers;
    return std::make_unique<HandTimer>(*this);
  }

 private:
  class HandTimer final : public Timer {
   public:
    explicit HandTimer(HandDevice& device) : device_(device) {}
    void start(Stream&) override { begin_ = device_.now_s; }
    void stop(Stream&) override { end_ = device_.now_s; }
    bool done() const override { return device_.reached_s >= end_; }
    double seconds() override {
      require(done(), ErrorKind::Internal, "the host would wait for the device");
      return passed(begin_, end_);
    }
    double seconds_after(const Timer& other) const override {
      return passed(dynamic_cast<const HandTimer&>(other).begin_, begin_);
    }

   private:
    static double passed(double from, double to) { return kMillisecond * static_cast<float>((to - from) * 1e3); }
    HandDevice& device_;
    double begin_ = 0, end_ = 0;
  };
};

class StreamTimesTest : public testing::Test {
 protected:
  StreamTimesTest() {
    ProfileRow row;
    for (const char* label : {"outer", "inner"}) {
      row.label = label;
      profile_.add_row(row);
    }
  }
  // One span of so many milliseconds.
  void span(int row, double ms) {
    StreamTimes::Span& s = times_->begin(row, *stream_);
    device_.now_s += kMillisecond * ms;
    StreamTimes::end(s);
  }
  std::int64_t length(std::size_t i) const { return profile_.spans()[i].end_ns - profile_.spans()[i].begin_ns; }

  HandDevice device_;
  Profile profile_;
  std::unique_ptr<Stream> stream_ = device_.make_stream(StreamKind::Compute);
  std::unique_ptr<StreamTimes> times_ = std::make_unique<StreamTimes>(device_, *stream_, profile_);
};

TEST_F(StreamTimesTest, SpansAreOfTheDeviceAndNest) {
  const std::int64_t host = Profile::now_ns();
  device_.now_s += 0.25;
  StreamTimes::Span& outer = times_->begin(0, *stream_);
  span(1, 2);
  device_.now_s += kMillisecond;
  span(1, 4);
  StreamTimes::end(outer);
  times_->collect();
  const std::vector<Profile::Span> spans = profile_.spans();
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0].row, 0);
  EXPECT_EQ(length(0), 7'000'000);
  EXPECT_EQ(length(1), 2'000'000);
  EXPECT_EQ(length(2), 4'000'000);
  EXPECT_EQ(spans[1].begin_ns, spans[0].begin_ns);
  EXPECT_EQ(spans[2].begin_ns, spans[1].end_ns + 1'000'000);
  // A quarter of a second on the device's clock after the two were compared, and hardly later on the host's.
  EXPECT_NEAR(static_cast<double>(spans[0].begin_ns - host), 0.25e9, 0.1e9);
  EXPECT_EQ(profile_.sums()[1].total_ns, 6'000'000);
}

// A timer's seconds() would wait.
TEST_F(StreamTimesTest, NothingWaitsForTheDevice) {
  device_.reached_s = device_.now_s;
  for (int i = 0; i < 10; ++i) span(1, 1);
  times_->collect();
  EXPECT_EQ(profile_.sums()[1].calls, 0);
  device_.reached_s += 4.5 * kMillisecond;
  span(1, 1);
  EXPECT_EQ(profile_.sums()[1].calls, 4);
  device_.reached_s = 1e9;
  times_->collect();
  EXPECT_EQ(profile_.sums()[1].calls, 11);
}

// However long a run is, there are as many timers as spans were under way at once.
TEST_F(StreamTimesTest, TimersAreUsedAgain) {
  for (int step = 0; step < 100; ++step) {
    device_.reached_s = device_.now_s;
    for (int i = 0; i < 5; ++i) span(1, 1);
    device_.reached_s = 1e9;
    times_->collect();
  }
  EXPECT_EQ(profile_.sums()[1].calls, 500);
  EXPECT_EQ(device_.timers, 1 + 5);
  for (int i = 0; i < 100; ++i) span(1, 1);  // each is over before the next one
  EXPECT_EQ(device_.timers, 1 + 5);
}

// After a day, floats of milliseconds are 8 ms apart.
TEST_F(StreamTimesTest, PlacesStayExactInLongRuns) {
  for (int step = 0; step < 24 * 60; ++step) {
    device_.now_s += 60;
    span(0, 1);
    times_->collect();
  }
  const std::vector<Profile::Span> spans = profile_.spans();
  ASSERT_EQ(spans.size(), 24U * 60U);
  for (std::size_t i = 1; i < spans.size(); ++i)
    ASSERT_NEAR(static_cast<double>(spans[i].begin_ns - spans[i - 1].begin_ns), 60.001e9, 5e3) << i;
}

}  // namespace
}  // namespace plimsoll
