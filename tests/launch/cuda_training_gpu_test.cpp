// Runs with device: cuda beside others of their kind: replayed launches, recomputation, offload and budgets change no
// bit, and memory is what was planned.

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "comm/group.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/backend.hpp"
#include "launch/run_setup.hpp"
#include "runtime/ops/attention_device.hpp"
#include "tests/launch/quiet_run.hpp"
#include "tests/support/counted_device.hpp"
#include "tests/support/environment.hpp"
#include "tests/support/equivalence.hpp"
#include "tests/support/missing_gpu.hpp"

namespace plimsoll {
namespace {

using namespace test;

class CudaTraining : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto missing = missing_gpu()) GTEST_SKIP() << *missing;
    write_tiny_data(folder_);
  }

  // Sizes that cuDNN's attention takes in half precision, four micro-batches to a step; times are the data sheet's.
  Config config(const std::string& run, std::vector<std::string> settings) const {
    settings.insert(settings.begin(), {"device=cuda", "plan.profile=off", "model.hidden=128", "model.heads=2",
                                       "train.micro_batch=1", "memory.logits=1MiB"});
    return tiny_config(folder_, run, settings);
  }
  nlohmann::json plan(const std::string& run) const {
    return nlohmann::json::parse(read_text(folder_ / run / "plan.json"));
  }
  nlohmann::json rank(const std::string& run) const {
    return nlohmann::json::parse(read_text(folder_ / run / "summary.json"))["ranks"][0];
  }
  void expect_same_run(const std::string& run, const std::string& other) const {
    EXPECT_EQ(lasting_metrics(folder_ / run), lasting_metrics(folder_ / other));
    for (const char* step : {"step_00000003", "step_00000006"}) {
      for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
        const std::string name = fmt::format("checkpoints/{}/{}", step, file);
        EXPECT_EQ(read_text(folder_ / run / name), read_text(folder_ / other / name)) << name;
      }
    }
  }
  void expect_as_planned(const std::string& run) const {
    const nlohmann::json r = rank(run);
    EXPECT_EQ(r["planned_bytes"], plan(run)["arena_bytes"]);
    EXPECT_EQ(r["arena_high_water_bytes"], r["planned_bytes"]);
    EXPECT_EQ(r["host_high_water_bytes"], r["host_planned_bytes"]);
    for (const auto& [name, bytes] : r["measured_minus_planned_bytes"].items()) EXPECT_EQ(bytes, 0) << name;
    EXPECT_LE(r["outside_arena_bytes"].get<std::int64_t>() + r["planned_bytes"].get<std::int64_t>(), r["budget_bytes"]);
    EXPECT_EQ(r["over_budget_bytes"], 0);
  }

  const TempFolder folder_;
};

// What a run computes in: attention by cuDNN without dropout in half precision, else by our kernels.
const std::vector<std::vector<std::string>> kKinds{
    {"precision=fp32"},
    {"precision=fp32", "model.dropout=0.1"},
    {"precision=bf16"},
    {"precision=bf16", "model.dropout=0.1"},
    {"precision=bf16", "optimizer.rounding=stochastic"},
    {"precision=fp16"},
    {"precision=bf16", "model.hidden=24", "model.heads=4"},  // heads of 6
};

TEST_F(CudaTraining, ReplayedLaunchesChangeNoBit) {
  for (std::size_t k = 0; k < kKinds.size(); ++k) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(kKinds[k], " ")));
    for (const char* graphs : {"off", "auto"}) {
      std::vector<std::string> settings = kKinds[k];
      settings.push_back(fmt::format("cuda.graphs={}", graphs));
      train_quietly(config(fmt::format("{}{}", graphs, k), settings));
    }
    expect_same_run(fmt::format("auto{}", k), fmt::format("off{}", k));
    expect_as_planned(fmt::format("auto{}", k));
    expect_as_planned(fmt::format("off{}", k));
  }
}

// Nor do those of its evaluations; and times of its kernels are kept apart from those of runs with epilogues.
TEST_F(CudaTraining, WithoutEpiloguesNoProductOfARunAsksForOne) {
  const auto kernels_name = [](Config config) {
    const Group control("control", make_self_transport());
    return make_backend(config, {}, control, 1).kernels_name;
  };
  const std::string name = kernels_name(config("none", {"precision=bf16"}));
  const EnvironmentVariable unasked("EMULATED_CUBLASLT", "unasked");
  const Config off = config("off", {"precision=bf16", "cuda.epilogues=off"});
  EXPECT_NE(kernels_name(off), name);
  train_quietly(off);
  expect_as_planned("off");
}

// Without cuDNN, or with an old one, attention in half precision is slower than it could be: said once, and planned so.
TEST_F(CudaTraining, AttentionWithoutCudnnIsSaidAndPlanned) {
  for (const char* precision : {"fp32", "bf16"}) {
    testing::internal::CaptureStderr();
    train_quietly(config(precision, {fmt::format("precision={}", precision), "train.steps=2"}));
    const std::string said = testing::internal::GetCapturedStderr(), line = "without tensor cores compute attention";
    const bool slower = cuda_module().versions().cudnn < kOldestCudnn && precision == std::string_view("bf16");
    const std::size_t first = said.find(line);
    EXPECT_EQ(first != std::string::npos, slower) << said;
    EXPECT_EQ(said.rfind(line), first) << said;
    EXPECT_EQ(plan(precision).contains("fused_heads"), slower);
  }
}

// Every node launched by itself, and timed on the device's clock; without a trace, sections are.
TEST_F(CudaTraining, ATraceChangesNoBitAndNamesNodes) {
  for (const char* precision : {"fp32", "bf16"}) {
    SCOPED_TRACE(precision);
    const auto train = [&](const std::string& run, std::vector<std::string> settings) {
      settings.insert(settings.end(), {fmt::format("precision={}", precision), "memory.recompute=[offload, full]"});
      train_quietly(config(run, settings));
      expect_as_planned(run);
      return rank(run)["measured_ms"];
    };
    const std::string plain = fmt::format("{}_plain", precision), traced = fmt::format("{}_traced", precision);
    const std::string file = (folder_ / (traced + ".json")).string();
    const nlohmann::json whole = train(plain, {}), nodes = train(traced, {"run.trace=" + file});
    expect_same_run(traced, plain);
    const auto summary = nlohmann::json::parse(read_text(folder_ / plain / "summary.json"));
    for (const char* part : {"forward", "backward", "update"}) {
      EXPECT_GT(whole[part], 0) << part;
      EXPECT_GT(nodes[part], 0) << part;
    }
    EXPECT_LT(4 * (whole["forward"].get<double>() + whole["backward"].get<double>()) + whole["update"].get<double>(),
              2 * summary["measured_step_ms"].get<double>());
    EXPECT_TRUE(whole["recompute"].is_null());
    EXPECT_GT(nodes["recompute"], 0);
    EXPECT_LT(nodes["recompute"], nodes["backward"]);
    std::map<std::string, double> end_us;
    std::map<std::string, int> ops;
    const nlohmann::json trace = nlohmann::json::parse(read_text(file));
    for (const nlohmann::json& event : trace["traceEvents"]) {
      EXPECT_GE(event["ts"], 0);
      EXPECT_GE(event["dur"], 0);
      double& end = end_us[event["tid"].get<std::string>()];
      EXPECT_GE(event["ts"].get<double>(), end - 2) << event["name"];
      end = event["ts"].get<double>() + event["dur"].get<double>();
      ++ops[event["args"]["op"].get<std::string>()];
    }
    for (const char* op : {"linear", "attention", "adamw", "to_host", "from_host"}) EXPECT_GT(ops[op], 0) << op;
    EXPECT_TRUE(end_us.contains("compute") && end_us.contains("copy"));
  }
}

// And they are replayed: of four micro-batches the forward; backward of the first, those between, the last; the update.
TEST_F(CudaTraining, RecordsEachSectionOnce) {
  constexpr std::int64_t kSteps = 3, kSections = 5, kRuns = kSteps * (4 + 4 + 1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    ProgramOptions o = four_layer_options(ModelFamily::Gpt2);  // with dropout
    o.dtype = dtype;
    o.threads = kDeviceThreads;
    const auto trained = [&](bool records, RecordingCounts& counts) {
      Backend backend;
      backend.device = std::make_unique<CountedDevice>(cuda_module().make_device({}), counts);
      backend.kernels = cuda_module().kernels({});
      backend.threads = kDeviceThreads;
      backend.records = records;
      RunResult run = train_rank({}, o, 0, {}, 4, kSteps, false, false, &backend);
      EXPECT_EQ(run.high_water, run.planned);
      EXPECT_EQ(run.seen_classes, run.classes);
      return run;
    };
    RecordingCounts launched, replayed;
    expect_same_bits(trained(true, replayed), trained(false, launched));
    EXPECT_EQ(launched.captures + launched.replays, 0);
    EXPECT_EQ(replayed.captures, kSections);
    EXPECT_EQ(replayed.replays, kRuns - kSections);
  }
}

TEST_F(CudaTraining, RecomputationAndOffloadChangeMemoryAndNoBit) {
  for (const char* precision : {"fp32", "bf16"}) {
    const auto run = [&](const std::string& name, const std::string& mode) {
      train_quietly(config(name, {fmt::format("precision={}", precision), "model.dropout=0.1",
                                  fmt::format("memory.recompute={}", mode)}));
      expect_as_planned(name);
      return plan(name)["arena_bytes"].get<std::int64_t>();
    };
    const std::string none = fmt::format("{}_none", precision);
    const std::int64_t whole = run(none, "none");
    for (const auto& [label, mode] :
         {std::pair{"full", "full"}, {"selective", "selective"}, {"offload", "offload"}, {"list", "[offload, full]"}}) {
      SCOPED_TRACE(fmt::format("{} {}", precision, mode));
      const std::string name = fmt::format("{}_{}", precision, label);
      EXPECT_LT(run(name, mode), whole);
      expect_same_run(name, none);
    }
  }
}

// Whatever the budget leaves for activations.
TEST_F(CudaTraining, AutomaticRecomputationKeepsTheBudgetAndEveryBit) {
  constexpr std::int64_t kReserve = std::int64_t{4} << 30;  // contexts and libraries have less
  for (const char* precision : {"fp32", "bf16"}) {
    const auto run = [&](const std::string& name, std::int64_t budget) {
      train_quietly(config(name, {fmt::format("precision={}", precision), "model.layers=6", "train.micro_batch=2",
                                  "memory.reserve=4GiB", fmt::format("memory.budget={}B", budget)}));
      expect_as_planned(name);
      EXPECT_LE(plan(name)["arena_bytes"].get<std::int64_t>() + kReserve, budget);
      return plan(name);
    };
    const std::string none = fmt::format("{}_none", precision);
    const nlohmann::json whole = run(none, std::int64_t{5} << 30);
    EXPECT_TRUE(whole["recompute"]["layers"].empty());
    const std::int64_t arena = whole["arena_bytes"], activations = whole["class_bytes"]["activations"];
    for (const int percent : {100, 75, 50, 35, 25}) {
      SCOPED_TRACE(fmt::format("{} {}", precision, percent));
      const std::string name = fmt::format("{}_{}", precision, percent);
      const nlohmann::json tight = run(name, kReserve + arena - activations + activations * percent / 100);
      EXPECT_EQ(tight["recompute"]["layers"].empty(), percent == 100);
      expect_same_run(name, none);
    }
  }
}

// A process by itself, whose context and libraries are what it has outside the arena.
TEST_F(CudaTraining, WhatIsOutsideTheArenaCountsInTheBudget) {
  train_quietly(config("run", {"precision=bf16", "memory.budget=6GiB"}));
  expect_as_planned("run");
  const nlohmann::json r = rank("run");
  EXPECT_EQ(r["budget_bytes"], std::int64_t{6} << 30);
  EXPECT_GT(r["outside_arena_bytes"], std::int64_t{32} << 20) << "a context and cuBLAS";
  EXPECT_GE(plan("run")["outside_arena_bytes"], r["outside_arena_bytes"]) << "with room for what comes later";
  try {
    train_quietly(config("none", {"memory.budget=64MiB"}));
    FAIL() << "the run fits beside its context";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory) << error.what();
  }
}

}  // namespace
}  // namespace plimsoll
