// Times of programs on a device whose streams only launch and which has a clock of its own, with and without a trace.

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "launch/step_times.hpp"
#include "launch/summary.hpp"
#include "tests/support/equivalence.hpp"
#include "tests/support/forwarding_device.hpp"
#include "tests/support/separate_device.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll::test {
namespace {

constexpr std::int64_t kSteps = 3, kMicroBatches = 4, kMillisecond = 1'000'000;

// The device of its own memory, on whose clock a task takes a millisecond of its stream, and nothing else takes any.
class ClockedDevice final : public ForwardingDevice {
 public:
  ClockedDevice() : ForwardingDevice(make_separate_device(true)) {}
  explicit ClockedDevice(std::unique_ptr<Device> inner) : ForwardingDevice(std::move(inner)) {}

  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    return std::make_unique<ClockedStream>(ForwardingDevice::make_stream(kind));
  }
  std::unique_ptr<Timer> make_timer() override { return std::make_unique<ClockTimer>(make_event()); }

 private:
  class ClockedStream final : public ForwardingStream {
   public:
    using ForwardingStream::ForwardingStream;
    void launch(Task task) override {
      ForwardingStream::launch(task);
      ForwardingStream::launch({[](void* now) { *static_cast<std::int64_t*>(now) += kMillisecond; }, &now_ns_});
    }

    struct Reading {
      const std::int64_t* clock = nullptr;
      std::int64_t ns = 0;
    };
    void read(Reading& to) {
      to.clock = &now_ns_;
      ForwardingStream::launch({[](void* r) {
                                  auto* reading = static_cast<Reading*>(r);
                                  reading->ns = *reading->clock;
                                },
                                &to});
    }

   private:
    std::int64_t now_ns_ = 0;  // of tasks alone
  };

  class ClockTimer final : public Timer {
   public:
    explicit ClockTimer(std::unique_ptr<Event> stopped) : stopped_(std::move(stopped)) {}
    void start(Stream& stream) override { dynamic_cast<ClockedStream&>(stream).read(begin_); }
    void stop(Stream& stream) override {
      dynamic_cast<ClockedStream&>(stream).read(end_);
      stream.record(*stopped_);
    }
    bool done() const override { return stopped_->ready(); }
    double seconds() override {
      stopped_->synchronize();
      return 1e-9 * static_cast<double>(end_.ns - begin_.ns);
    }
    double seconds_after(const Timer& other) const override {
      return 1e-9 * static_cast<double>(begin_.ns - dynamic_cast<const ClockTimer&>(other).begin_.ns);
    }

   private:
    std::unique_ptr<Event> stopped_;
    ClockedStream::Reading begin_, end_;
  };
};

// What a rank computes on, with what the device below counts.
struct Clocked {
  Backend backend = make_separate_backend(true);
  const SeparateDevice& separate = dynamic_cast<const SeparateDevice&>(*backend.device);
  Clocked() { backend.device = std::make_unique<ClockedDevice>(std::move(backend.device)); }
};

ProgramOptions recomputing(RecomputeMode mode) {
  ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  o.evaluate = false;
  o.recompute.assign(4, LayerRecompute{mode, {}});
  return o;
}

// How often a step of four micro-batches runs a node.
std::int64_t runs_of(const Graph& graph, std::size_t n) {
  const auto in = [&](Variant v) { return (graph.nodes[n].when & static_cast<std::uint8_t>(v)) != 0 ? 1 : 0; };
  switch (graph.section(n)) {
    case Graph::Section::Forward: return in(Variant::Only)*kMicroBatches;
    case Graph::Section::Backward: return in(Variant::First) + 2 * in(Variant::Middle) + in(Variant::Last);
    case Graph::Section::Update: return in(Variant::Only);
  }
  return 0;
}

// Milliseconds of a step on the compute stream.
struct Expected {
  std::int64_t forward = 0, backward = 0, update = 0, again = 0;
};
Expected expected_of(const Graph& graph) {
  Expected e;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (graph.nodes[n].stream != StreamKind::Compute) continue;
    const auto section = graph.section(n);
    (section == Graph::Section::Forward    ? e.forward
     : section == Graph::Section::Backward ? e.backward
                                           : e.update) += runs_of(graph, n);
    if (graph.nodes[n].again) e.again += runs_of(graph, n);
  }
  return e;
}

void expect_times(const RankTimes& times, const Expected& expected) {
  EXPECT_NEAR(times.forward_s * kMicroBatches * 1e3, static_cast<double>(expected.forward), 1e-6);
  EXPECT_NEAR(times.backward_s * kMicroBatches * 1e3, static_cast<double>(expected.backward), 1e-6);
  EXPECT_NEAR(times.update_s * 1e3, static_cast<double>(expected.update), 1e-6);
}

TEST(DeviceTimes, SectionsAreTimedWhereTheyAreReplayed) {
  const ProgramOptions o = recomputing(RecomputeMode::Full);
  Clocked clocked;
  Profile profile(0);
  const RunResult run = train_rank({}, o, 0, {}, kMicroBatches, kSteps, false, false, &clocked.backend, &profile);
  expect_same_bits(run, train_rank({}, o, 0, {}, kMicroBatches, kSteps, false));
  constexpr std::int64_t kSections = 5, kRuns = kSteps * (kMicroBatches + kMicroBatches + 1);
  EXPECT_EQ(clocked.separate.replays(), kRuns - kSections);
  const RankTimes times = measured_times(profile, {}, kSteps, kMicroBatches);
  const Programs programs = build_programs(o);
  expect_times(times, expected_of(programs.graph("train")));
  EXPECT_GT(times.forward_s, 0);
  EXPECT_EQ(times.recompute_s, std::nullopt) << "nobody looked into the sections";
}

TEST(DeviceTimes, ATraceHasEveryNode) {
  for (const RecomputeMode mode : {RecomputeMode::Full, RecomputeMode::Offload}) {
    const ProgramOptions o = recomputing(mode);
    Clocked clocked;
    Profile profile;
    const RunResult run = train_rank({}, o, 0, {}, kMicroBatches, kSteps, false, false, &clocked.backend, &profile);
    expect_same_bits(run, train_rank({}, o, 0, {}, kMicroBatches, kSteps, false));
    EXPECT_EQ(clocked.separate.captures() + clocked.separate.replays(), 0);
    const Programs programs = build_programs(o);
    const Graph& graph = programs.graph("train");
    std::map<std::pair<std::string, std::string>, std::int64_t> expected, found;  // by stream, layer and label
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      expected[{std::string(stream_name(node.stream)), fmt::format("{}.{}", node.layer, node.label)}] +=
          kSteps * runs_of(graph, n);
    }
    std::map<std::string, std::int64_t> end;  // by stream
    for (const Profile::Span& span : profile.spans()) {
      const ProfileRow& row = profile.row(span.row);
      EXPECT_EQ(span.end_ns - span.begin_ns, kMillisecond) << row.label;
      EXPECT_GE(span.begin_ns, end[row.track]) << row.label;
      end[row.track] = span.end_ns;
      ++found[{row.track, fmt::format("{}.{}", row.layer, row.label)}];
    }
    EXPECT_EQ(found, expected);
    EXPECT_EQ(end.contains("copy"), mode == RecomputeMode::Offload);
    const RankTimes times = measured_times(profile, {}, kSteps, kMicroBatches);
    expect_times(times, expected_of(graph));
    ASSERT_TRUE(times.recompute_s);
    EXPECT_NEAR(*times.recompute_s * kMicroBatches * 1e3, static_cast<double>(expected_of(graph).again), 1e-6);
    EXPECT_EQ(*times.recompute_s > 0, mode == RecomputeMode::Full);
    EXPECT_NE(profile.table().find("linear forward"), std::string::npos);
  }
}

// Beside sections, what is never recorded has its own times: copies on the device's clock, and messages that threads of
// the host carry on the host's.
TEST(DeviceTimes, CopiesAndCollectivesAreTimedWithoutATrace) {
  const ProgramOptions offloading = recomputing(RecomputeMode::Offload);
  Clocked clocked;
  Profile profile(0);
  train_rank({}, offloading, 0, {}, kMicroBatches, kSteps, false, false, &clocked.backend, &profile);
  EXPECT_GT(clocked.separate.replays(), 0);
  std::int64_t copies = 0;
  for (std::size_t i = 0; i < profile.sums().size(); ++i) {
    const ProfileRow& row = profile.row(static_cast<int>(i));
    EXPECT_EQ(row.whole, row.track == "compute") << row.label;
    if (row.track != "copy") continue;
    ++copies;
    EXPECT_EQ(profile.sums()[i].calls, kSteps * kMicroBatches) << row.label;
    EXPECT_EQ(profile.sums()[i].total_ns, kSteps * kMicroBatches * kMillisecond) << row.label;
  }
  EXPECT_GT(copies, 0);

  ProgramOptions plain = four_layer_options(ModelFamily::Gpt2);
  plain.evaluate = false;
  const Layout layout{.mesh = {.data = 2, .shards = 2}, .zero = 3};
  std::array<RankTimes, 2> times;
  on_mesh(layout.mesh, [&](int rank, const Groups& groups) {
    Clocked mine;
    Profile own(0);
    train_rank(layout, plain, rank, groups, 2 * kMicroBatches, kSteps, false, false, &mine.backend, &own);
    EXPECT_GT(mine.separate.replays(), 0);
    times[static_cast<std::size_t>(rank)] = measured_times(own, {}, kSteps, kMicroBatches);
  });
  for (const RankTimes& t : times) {
    EXPECT_GT(t.forward_s, 0);
    EXPECT_GT(t.update_s, 0);
    double sent_s = 0;
    for (const double s : t.collective_s) sent_s += s;
    EXPECT_GT(sent_s, 0);
    EXPECT_LT(sent_s, 60);
    EXPECT_NE(std::round(sent_s * 1e9), std::round(sent_s * 1e3) * 1e6) << "not of the clock that counts tasks";
  }
}

// A stage's actions contain the nodes that run in them; what it sends and receives is there too.
TEST(DeviceTimes, ATraceOfAPipelineHasActionsAndMessages) {
  ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  o.evaluate = false;
  for (const ScheduleKind schedule : {ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
    const Layout layout{.mesh = {.pipeline = 2}, .schedule = schedule};
    SCOPED_TRACE(name_of(layout));
    const RunResult cpu = train_on(layout, o, kMicroBatches, kSteps);
    std::array<Profile, 2> profiles;
    on_mesh(layout.mesh, [&](int rank, const Groups& groups) {
      Clocked mine;
      const auto r = static_cast<std::size_t>(rank);
      const RunResult run =
          train_rank(layout, o, rank, groups, kMicroBatches, kSteps, false, false, &mine.backend, &profiles[r]);
      EXPECT_EQ(mine.separate.captures(), 0);
      if (rank == 0) expect_same_bits(run, cpu);
    });
    for (const Profile& profile : profiles) {
      const std::vector<Profile::Span> spans = profile.spans();
      std::vector<Profile::Span> actions;
      std::set<std::string> tracks;
      for (const Profile::Span& span : spans) {
        tracks.insert(profile.row(span.row).track);
        if (profile.row(span.row).track == "schedule") actions.push_back(span);
      }
      const std::size_t of_micro_batch = schedule == ScheduleKind::ZbH1 ? 3 : 2;
      EXPECT_EQ(actions.size(), of_micro_batch * kMicroBatches * kSteps);
      for (const Profile::Span& span : spans) {
        const ProfileRow& row = profile.row(span.row);
        if (row.track != "compute" || row.section == "update") continue;
        EXPECT_EQ(span.end_ns - span.begin_ns, kMillisecond) << row.label;
        const auto holds = [&](const Profile::Span& a) {
          return a.begin_ns <= span.begin_ns && span.end_ns <= a.end_ns;
        };
        EXPECT_EQ(std::count_if(actions.begin(), actions.end(), holds), 1) << row.label;
      }
      EXPECT_EQ(tracks.contains("send output") || tracks.contains("receive output"), true);
      EXPECT_EQ(tracks.contains("send gradient") || tracks.contains("receive gradient"), true);
    }
  }
}

// What is not known is not said to be nothing.
TEST(DeviceTimes, ReportsSayWhatWasNotTimed) {
  const TempFolder folder;
  const auto report = [&](std::optional<double> predicted_s, std::optional<double> measured_s) {
    RunSummary summary;
    RankSummary rank;
    rank.predicted = {0.002, 0.004, 0.001, predicted_s, {}};
    rank.measured = {0.003, 0.005, 0.002, measured_s, {}};
    summary.ranks = {rank};
    write_summary(summary, folder.path().string());
    const auto json = nlohmann::json::parse(read_text(folder / "summary.json"));
    return std::pair(times_report(summary), json["ranks"][0]["measured_ms"]["recompute"]);
  };
  const auto line = [](const std::string& text) {
    const std::size_t at = text.find("of it again");
    return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
  };
  const auto [unknown, null] = report(0.0005, std::nullopt);
  EXPECT_EQ(line(unknown), fmt::format("{:<24}{:>14}{:>14}", "of it again", "0.500", "-"));
  EXPECT_TRUE(null.is_null());
  EXPECT_NE(unknown.find("3.000"), std::string::npos) << unknown;
  const auto [known, number] = report(0.0005, 0.00025);
  EXPECT_EQ(line(known), fmt::format("{:<24}{:>14}{:>14}{:>8} %", "of it again", "0.500", "0.250", "+100.0"));
  EXPECT_EQ(number, 0.25);
  EXPECT_EQ(line(report(0, std::nullopt).first), "");
}

}  // namespace
}  // namespace plimsoll::test
