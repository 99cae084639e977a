// Nothing on the host touches the memory of the device: runs on a device that has its own
// (tests/support/separate_device) give the bits of the CPU's.

#include "tests/support/separate_device.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "kernels/cpu/register.hpp"
#include "launch/generate.hpp"
#include "launch/run_files.hpp"
#include "runtime/device/arena.hpp"
#include "runtime/device/staging.hpp"
#include "tests/comm/fake_nccl.hpp"
#include "tests/support/counted_device.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll::test {
namespace {

constexpr std::int64_t kRows = 8, kSteps = 3;

TEST(SeparateDevice, KeepsItsMemoryFromTheHost) {
  const auto device = make_separate_device();
  Arena arena(*device, 1 << 16);
  EXPECT_FALSE(host_can_read(arena.base()));
  std::int32_t value = 7, found = 0;
  device->copy_to_device(arena.base(), &value, sizeof(value));
  device->copy_to_host(&found, arena.base(), sizeof(found));
  EXPECT_EQ(found, 7);
  EXPECT_FALSE(host_can_read(arena.base()));
  EXPECT_EQ(device->waits().copies, 2);
}

TEST(SeparateDevice, RunsTasksWhenTheHostWaits) {
  const auto device = make_separate_device();
  const auto stream = device->make_stream(StreamKind::Compute);
  std::atomic<bool> ran = false;
  stream->launch({[](void* flag) { *static_cast<std::atomic<bool>*>(flag) = true; }, &ran});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(ran);
  stream->synchronize();
  EXPECT_TRUE(ran);
}

// What is sent may change as soon as send() returns, also where blocks are used again.
TEST(Staging, SendsWhatWasThere) {
  constexpr std::int32_t kValues = 10;
  const auto device = make_separate_device();
  Arena arena(*device, kValues * 4);
  const auto stream = device->make_stream(StreamKind::Compute);
  Staging staging(*device, 4, 3);
  for (std::int32_t i = 0; i < kValues; ++i) {
    std::int32_t value = 100 + i;
    staging.send(*stream, arena.base() + 4 * static_cast<std::ptrdiff_t>(i), &value, sizeof(value));
    value = -1;
  }
  stream->synchronize();
  std::array<std::int32_t, kValues> found{};
  device->copy_to_host(found.data(), arena.base(), sizeof(found));
  for (std::int32_t i = 0; i < kValues; ++i) EXPECT_EQ(found[static_cast<std::size_t>(i)], 100 + i);
}

struct Case {
  Layout layout;
  ModelFamily family = ModelFamily::Gpt2;
  RecomputeMode recompute = RecomputeMode::None;
  bool poison = false;
};

class OnSeparateDevice : public testing::TestWithParam<Case> {};

TEST_P(OnSeparateDevice, TrainsTheBitsOfTheCpu) {
  const Case& c = GetParam();
  ProgramOptions o = four_layer_options(c.family);
  if (c.recompute != RecomputeMode::None)
    o.recompute.assign(static_cast<std::size_t>(o.model.layers), LayerRecompute{c.recompute, {}});
  const RunResult cpu = train_on(c.layout, o, kRows, kSteps, c.poison);
  const RunResult separate = train_on(c.layout, o, kRows, kSteps, c.poison, [] { return make_separate_backend(); });
  expect_same_bits(separate, cpu);
  EXPECT_EQ(separate.high_water, separate.planned);
  EXPECT_EQ(separate.host_high_water, separate.host_planned);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, OnSeparateDevice,
    testing::Values(Case{}, Case{{}, ModelFamily::Llama}, Case{{}, ModelFamily::Gpt2, RecomputeMode::Offload},
                    Case{{}, ModelFamily::Gpt2, RecomputeMode::None, true},
                    Case{{.mesh = {.data = 2, .shards = 2}, .zero = 3}},
                    Case{{.mesh = {.tensor = 2}, .sequence = true}, ModelFamily::Llama},
                    Case{{.mesh = {.pipeline = 2}}},
                    Case{{.mesh = {.pipeline = 2}, .schedule = ScheduleKind::ZbH1}, ModelFamily::Llama}),
    [](const auto& test) {
      const Case& c = test.param;
      std::string name = fmt::format("{}_{}_{}{}", name_of(c.layout), family_name(c.family),
                                     static_cast<int>(c.recompute), c.poison ? "_poison" : "");
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// The messages of ranks whose memory the host cannot read, through host memory: the same bits, since sums are made in
// the same order there. On every axis, also while launches are replayed.
TEST(SeparateDevice, TrainsOverStagedTransports) {
  for (const Layout& layout :
       {Layout{.mesh = {.data = 2, .shards = 2}, .zero = 3}, Layout{.mesh = {.tensor = 2}, .sequence = true},
        Layout{.mesh = {.pipeline = 2}, .schedule = ScheduleKind::ZbH1}}) {
    const ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
    const RunResult cpu = train_on(layout, o, kRows, kSteps);
    const RunResult staged = train_on(layout, o, kRows, kSteps, false, [] {
      return make_separate_backend_over({TransportName::Staged, nullptr, ""});
    });
    SCOPED_TRACE(name_of(layout));
    expect_same_bits(staged, cpu);
    EXPECT_EQ(staged.sent, cpu.sent);
  }
}

// The same by calls of NCCL, of a library that makes sums in the order of ours. Stages that send and receive at once
// show that neither stands behind the other.
TEST(SeparateDevice, TrainsOverNccl) {
  struct NcclCase {
    Layout layout;
    std::vector<std::string_view> calls;  // of every rank, in every step once per layer at least
  };
  for (const NcclCase& c :
       {NcclCase{{.mesh = {.data = 2, .shards = 2}, .zero = 3}, {"ncclAllGather", "ncclReduceScatter"}},
        NcclCase{{.mesh = {.tensor = 2}}, {"ncclAllReduce"}},
        NcclCase{{.mesh = {.tensor = 2}, .sequence = true}, {"ncclAllGather", "ncclReduceScatter"}},
        NcclCase{{.mesh = {.pipeline = 2}}, {"ncclSend", "ncclRecv"}},
        NcclCase{{.mesh = {.pipeline = 2}, .schedule = ScheduleKind::ZbH1}, {"ncclSend", "ncclRecv"}},
        NcclCase{{.mesh = {.data = 2, .pipeline = 2, .shards = 2}, .zero = 1}, {"ncclSend", "ncclRecv"}}}) {
    SCOPED_TRACE(name_of(c.layout));
    const ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
    const auto world = std::make_shared<FakeNcclWorld>();
    std::vector<std::shared_ptr<FakeNccl>> libraries;
    const RunResult nccl = train_on(c.layout, o, kRows, kSteps, false, [&] {
      libraries.push_back(std::make_shared<FakeNccl>(world));
      return make_separate_backend_over({TransportName::Nccl, libraries.back(), ""},
                                        fmt::format("GPU {}", libraries.size()));
    });
    expect_same_bits(nccl, train_on(c.layout, o, kRows, kSteps));
    for (const auto& library : libraries) {
      const auto calls = [&](std::string_view name) {
        return std::count_if(library->log.begin(), library->log.end(),
                             [&](const std::string& call) { return call.starts_with(name); });
      };
      for (const std::string_view name : c.calls) EXPECT_GE(calls(name), kSteps * o.model.layers) << name;
      EXPECT_EQ(calls("ncclCommAbort"), 0);
      EXPECT_EQ(calls("ncclCommDestroy"), calls("ncclCommInitRankConfig"));
    }
  }
}

// Where a device has memory of its own, every kernel is called once before the arena is: nothing of that is left, and
// what those calls keep of the memory is there before the first step.
TEST(SeparateDevice, KernelsAreCalledBeforeTheFirstStep) {
  static std::atomic<std::int64_t> kept;
  kept = 1000;
  const auto adam_that_allocates = [](const KernelArgs& args) {
    kept = 5000;
    cpu_kernels().find(op_id<AdamW>, Phase::Update, DType::f32)(args);
  };
  ProgramOptions o = four_layer_options(ModelFamily::Llama);
  const RunResult cpu = train_on({}, o, kRows, kSteps);
  for (const bool records : {false, true}) {
    Backend backend = make_separate_backend(records, [] { return kept.load(); });
    backend.kernels.add<AdamW>(Phase::Update, DType::f32, adam_that_allocates);
    {
      EngineOptions options;
      options.backend = &backend;
      const Engine engine(build_programs(o), options);
      EXPECT_EQ(backend.device->outside_bytes(), 5000);
    }
    const RunResult run = train_rank({}, o, 0, {}, kRows, kSteps, false, false, &backend);
    expect_same_bits(run, cpu);
    EXPECT_EQ(run.high_water, run.planned);
  }
  // Beside collectives and stages, which wait for nobody there; a kernel that asks its group is called alone.
  static std::atomic<int> alone;
  const auto loss_that_tells = [](const KernelArgs& args) {
    if (dynamic_cast<const Alone*>(args.group) != nullptr) ++alone;
    cpu_kernels().find(op_id<CrossEntropy>, Phase::InputGrad, DType::f32)(args);
  };
  for (const Layout& layout : {Layout{.mesh = {.data = 2, .shards = 2}, .zero = 3}, Layout{.mesh = {.tensor = 2}},
                               Layout{.mesh = {.pipeline = 2}}}) {
    SCOPED_TRACE(name_of(layout));
    const auto made = [&] {
      Backend backend = make_separate_backend(true, [] { return 1000; });
      backend.kernels.add<CrossEntropy>(Phase::InputGrad, DType::f32, loss_that_tells);
      return backend;
    };
    alone = 0;
    expect_same_bits(train_on(layout, o, kRows, kSteps, false, made), train_on(layout, o, kRows, kSteps));
    EXPECT_EQ(alone, layout.mesh.tensor > 1 ? 2 * 2 : 0);  // on each rank, of a first micro-batch and a later one
  }
}

// No step waits for the device before its end: one synchronization of each stream, and the copies of its results. Nor
// does one that is traced.
TEST(SeparateDevice, HostWaitsAtTheEndOfAStepOnly) {
  const auto waits_of = [](std::int64_t micro_batches, Profile* profile = nullptr) {
    ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
    Backend backend = make_separate_backend();
    EngineOptions options;
    options.backend = &backend;
    options.profile = profile;
    Engine engine(build_programs(o), options);
    engine.initialise(1);
    const auto& device = dynamic_cast<const SeparateDevice&>(*backend.device);
    const HostWaits before = device.waits();
    tiny_step(engine, o, 0, 0, micro_batches * o.micro_batch, micro_batches * o.micro_batch);
    const HostWaits after = device.waits();
    return std::pair(after.copies - before.copies, after.synchronizations - before.synchronizations);
  };
  EXPECT_EQ(waits_of(1), waits_of(3));
  EXPECT_EQ(waits_of(3), std::pair(std::int64_t{2}, std::int64_t{2}));
  Profile profile;
  EXPECT_EQ(waits_of(3, &profile), waits_of(3));
  EXPECT_GT(profile.spans().size(), 100U);
}

// One rank of four micro-batches: forward; backward of the first, those between, the last; update. Each is launched
// node by node once, then recorded.
TEST(SeparateDevice, ReplaysWhatItRecordedWithTheSameBits) {
  const ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  const RunResult cpu = train_on({}, o, 4, kSteps);
  Backend backend = make_separate_backend(true);
  const Groups groups;
  const RunResult replayed = train_rank({}, o, 0, groups, 4, kSteps, false, false, &backend);
  expect_same_bits(replayed, cpu);
  EXPECT_EQ(replayed.high_water, replayed.planned);
  const auto& device = dynamic_cast<const SeparateDevice&>(*backend.device);
  constexpr std::int64_t kSections = 5, kRuns = kSteps * (4 + 4 + 1);
  EXPECT_EQ(device.captures(), kSections);
  EXPECT_EQ(device.replays(), kRuns - kSections);
}

// What cannot be recorded was not done, and is launched node by node from then on; one warning for a section.
TEST(SeparateDevice, LaunchesWhatCannotBeRecorded) {
  const ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  const RunResult cpu = train_on({}, o, 4, kSteps);
  const auto warnings_of = [](const std::string& said) {
    std::map<std::string, int> warnings;
    for (const char* section : {"forward", "backward", "update"}) {
      const std::string text = fmt::format("train {}: what begins with", section);
      for (std::size_t at = 0; (at = said.find(text, at)) != std::string::npos; ++at) ++warnings[section];
    }
    return warnings;
  };
  constexpr std::int64_t kSections = 5, kRuns = kSteps * (4 + 4 + 1), kAll = 1000;
  for (const CaptureFault fault : {CaptureFault::Begin, CaptureFault::Task, CaptureFault::End}) {
    for (const std::int64_t failing : {std::int64_t{1}, kAll}) {
      SCOPED_TRACE(fmt::format("fault {}, {} times", static_cast<int>(fault), failing));
      RecordingCounts counts;
      counts.fault = fault;
      counts.failing = failing;
      Backend backend = make_separate_backend(true);
      backend.device = std::make_unique<CountedDevice>(std::move(backend.device), counts);
      testing::internal::CaptureStderr();
      const RunResult run = train_rank({}, o, 0, {}, 4, kSteps, false, false, &backend);
      const std::string said = testing::internal::GetCapturedStderr();
      expect_same_bits(run, cpu);
      EXPECT_EQ(run.high_water, run.planned);
      EXPECT_NE(said.find("nothing is recorded today"), std::string::npos) << said;
      if (failing == kAll) {
        EXPECT_EQ(counts.captures + counts.replays, 0);
        EXPECT_EQ(kAll - counts.failing, kSections) << "nothing is tried twice";
        EXPECT_EQ(warnings_of(said), (std::map<std::string, int>{{"forward", 1}, {"backward", 1}, {"update", 1}}));
      } else {  // the forward of the second micro-batch, which would have been replayed from then on
        EXPECT_EQ(counts.captures, kSections - 1);
        EXPECT_EQ(counts.replays, kRuns - kSections - (kSteps * 4 - 1));
        EXPECT_EQ(warnings_of(said), (std::map<std::string, int>{{"forward", 1}}));
      }
    }
  }
}

// What fails for another reason than that it is recorded fails again when it is launched, and ends the run.
TEST(SeparateDevice, AFailedLaunchIsNoFailedRecording) {
  const ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  RecordingCounts counts;
  Backend backend = make_separate_backend(true);
  backend.device = std::make_unique<CountedDevice>(std::move(backend.device), counts);
  EngineOptions options;
  options.backend = &backend;
  Engine engine(build_programs(o), options);
  engine.initialise(1);
  tiny_step(engine, o, 0, 0, 1, 1);
  EXPECT_EQ(counts.captures, 0) << "each section ran once";
  counts.broken = true;
  try {
    tiny_step(engine, o, 1, 0, 1, 1);
    FAIL() << "a step without a device";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the device is gone"), std::string::npos) << error.what();
  }
}

// Profilers see a name for each section that runs and for each node that is launched.
TEST(SeparateDevice, RangesNameSectionsAndNodes) {
  ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  o.evaluate = false;  // its nodes have the names of those of training
  Backend backend = make_separate_backend(true);
  train_rank({}, o, 0, {}, 4, kSteps, false, false, &backend);
  const auto ranges = dynamic_cast<const SeparateDevice&>(*backend.device).ranges();
  const auto count = [&](const std::string& name) { return ranges.contains(name) ? ranges.at(name) : 0; };
  constexpr std::int64_t kMicroBatches = kSteps * 4;
  EXPECT_EQ(count("train forward"), kMicroBatches);
  EXPECT_EQ(count("train backward"), kMicroBatches);
  EXPECT_EQ(count("train update"), kSteps);
  const Programs programs = build_programs(o);
  std::map<std::string, std::int64_t> nodes;
  for (std::size_t n = 0; n < programs.graph("train").backward_begin; ++n) {
    const Node& node = programs.graph("train").nodes[n];
    const std::string layer = node.layer < 0 ? "" : fmt::format(" of layer {}", node.layer);
    nodes[fmt::format("{} forward {}{}", op_info(node.op).name, node.label, layer)] += kMicroBatches;
  }
  EXPECT_GT(nodes.size(), 4U);
  for (const auto& [name, times] : nodes) EXPECT_EQ(count(name), times) << name;
}

// A stream's time is what it takes for its tasks, whenever the host lets it.
TEST(SeparateDevice, TimersMeasureTheStream) {
  const auto device = make_separate_device();
  const auto stream = device->make_stream(StreamKind::Compute);
  const auto timer = device->make_timer();
  const auto sleep = [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(30)); };
  stream->launch({sleep, nullptr});
  timer->start(*stream);
  stream->launch({sleep, nullptr});
  timer->stop(*stream);
  stream->launch({sleep, nullptr});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const double seconds = timer->seconds();
  EXPECT_GE(seconds, 0.030);
  EXPECT_LT(seconds, 0.090);
}

// What communicates or offloads is launched node by node, beside what is replayed between.
TEST(SeparateDevice, ReplaysBesideOtherStreams) {
  ProgramOptions offloading = four_layer_options(ModelFamily::Llama);
  offloading.recompute.assign(4, LayerRecompute{RecomputeMode::Offload, {}});
  const ProgramOptions plain = four_layer_options(ModelFamily::Gpt2);
  const auto compare = [](const Layout& layout, const ProgramOptions& o, std::int64_t fewest) {
    SCOPED_TRACE(name_of(layout));
    RecordingCounts counts;
    const auto records = [&counts] {
      Backend backend = make_separate_backend(true);
      backend.device = std::make_unique<CountedDevice>(std::move(backend.device), counts);
      return backend;
    };
    expect_same_bits(train_on(layout, o, kRows, kSteps, false, records), train_on(layout, o, kRows, kSteps));
    const std::int64_t captures = counts.captures, replays = counts.replays;
    EXPECT_GE(captures, fewest);
    EXPECT_GE(replays, 2 * captures);
  };
  compare({}, offloading, 1);
  for (const Layout& layout :
       {Layout{.mesh = {.data = 2, .shards = 2}, .zero = 2}, Layout{.mesh = {.data = 2, .shards = 2}, .zero = 3},
        Layout{.mesh = {.pipeline = 2}}, Layout{.mesh = {.pipeline = 2}, .schedule = ScheduleKind::ZbH1},
        Layout{.mesh = {.tensor = 2}}, Layout{.mesh = {.tensor = 2}, .sequence = true}})
    compare(layout, plain, plain.model.layers);  // of every layer something
}

// Evaluation, saving, resuming: two engines on devices of their own go on as one on the CPU that never stopped.
TEST(SeparateDevice, EvaluatesSavesAndResumes) {
  const TempFolder folder;
  write_tiny_data(folder);
  Config config = tiny_config(folder, "run");
  check_for_ranks(config, 1);
  ProgramOptions o;
  o.model = config.model;
  o.sequence = config.data.sequence;
  o.micro_batch = 2;
  o.train = o.evaluate = true;
  const Group world("control", make_self_transport());
  const auto evaluate = [&](Engine& engine) {
    const TinyBatch batch = tiny_batch(o, 77, 0, o.micro_batch);
    double sum = 0, count = 0;
    engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
    return sum / count;
  };
  Engine cpu(build_programs(o), {});
  cpu.initialise(5);
  std::vector<double> expected, found;
  for (std::int64_t step = 0; step < 4; ++step) expected.push_back(tiny_step(cpu, o, step, 0, 4, 4).loss());
  expected.push_back(evaluate(cpu));

  for (const std::int64_t first : {0, 2}) {
    Backend backend = make_separate_backend();
    EngineOptions options;
    options.backend = &backend;
    Engine engine(build_programs(o), options);
    if (first == 0) {
      engine.initialise(5);
    } else {
      const auto state = load_run(config, engine);
      ASSERT_TRUE(state.has_value());
      EXPECT_EQ(state->step, first);
      engine.set_seed(5);
    }
    for (std::int64_t step = first; step < first + 2; ++step)
      found.push_back(tiny_step(engine, o, step, 0, 4, 4).loss());
    TrainingState state;
    state.step = first + 2;
    EXPECT_FALSE(save_run(config, engine, world, state).has_value());
    if (first == 2) found.push_back(evaluate(engine));
  }
  EXPECT_EQ(found, expected);
}

TEST(SeparateDevice, Generates) {
  const auto continued = [](Backend* backend) {
    ProgramOptions o;
    o.model = tiny_model(ModelFamily::Llama);
    o.sequence = 16;
    o.cache_positions = o.model.positions;
    EngineOptions options;
    options.backend = backend;
    Engine engine(build_programs(o), options);
    engine.initialise(3);
    return generate(engine, {1, 2, 3, 4, 5}, 12, {}, [](std::int32_t) { return true; });
  };
  Backend separate = make_separate_backend();
  EXPECT_EQ(continued(&separate), continued(nullptr));
}

}  // namespace
}  // namespace plimsoll::test
