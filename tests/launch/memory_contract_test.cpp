// The budget is a contract: what runs touches exactly what was planned, and what does not fit does not start.

#include <gtest/gtest.h>
#include <omp.h>

#include <sstream>

#include "launch/allocation_counter.hpp"
#include "launch/generate.hpp"
#include "launch/run_setup.hpp"
#include "launch/trainer.hpp"
#include "runtime/core/text.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

struct Case {
  std::string name;
  ModelFamily family;
  bool train, evaluate;
  std::int64_t cache, threads;
  DType dtype = DType::f32;
  std::int64_t sequence = 64;
  std::int64_t prompt = 70;
  RecomputeMode recompute = RecomputeMode::None;
};

// The plan counts on every thread: no more than OpenMP gives (under a sanitizer, OMP_THREAD_LIMIT may say one).
int threads_of(std::int64_t wanted) { return std::min(static_cast<int>(wanted), omp_get_thread_limit()); }

class MemoryContract : public testing::TestWithParam<Case> {
 protected:
  ProgramOptions options() const {
    ProgramOptions o = tiny_options(GetParam().family);
    o.sequence = GetParam().sequence;
    o.train = GetParam().train;
    o.evaluate = GetParam().evaluate;
    o.cache_positions = GetParam().cache;
    o.threads = threads_of(GetParam().threads);
    o.dtype = GetParam().dtype;
    o.recompute.assign(static_cast<std::size_t>(o.model.layers), {GetParam().recompute, {}});
    return o;
  }
  static void run_everything(Engine& engine, const ProgramOptions& o, std::int64_t steps) {
    for (std::int64_t step = 0; o.train && step < steps; ++step)
      tiny_step(engine, o, step, 0, 2 * o.micro_batch, 2 * o.micro_batch);
    if (o.evaluate) {
      const TinyBatch batch = tiny_batch(o, 99, 0, o.micro_batch);
      double sum = 0, count = 0;
      engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
      EXPECT_EQ(count, static_cast<double>(batch.targets.size()));
    }
    if (o.cache_positions > 0) {
      const auto prompt = tiny_tokens(GetParam().prompt, 37, 1);
      generate(engine, prompt, 4, {}, [](std::int32_t) { return true; });
    }
  }
};

TEST_P(MemoryContract, PlanPassesTheIndependentChecker) {
  const Programs programs = build_programs(options());
  EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
  std::int64_t sum = programs.plan.padding_bytes;
  for (const std::int64_t bytes : programs.plan.class_bytes) sum += bytes;
  const std::int64_t offloaded = programs.plan.class_bytes[static_cast<std::size_t>(MemoryClass::Offloaded)];
  EXPECT_EQ(sum - offloaded, programs.plan.total_bytes);
  EXPECT_EQ(offloaded + programs.plan.host_padding_bytes, programs.plan.host_bytes);
  EXPECT_EQ(programs.plan.host_bytes > 0, GetParam().recompute == RecomputeMode::Offload);
}

TEST_P(MemoryContract, HighWaterIsThePlanToTheByte) {
  const ProgramOptions o = options();
  Engine engine(build_programs(o), {o.threads, false, {}, nullptr});
  EXPECT_EQ(engine.arena().bytes(), engine.programs().plan.total_bytes);
  engine.initialise(1);
  run_everything(engine, o, 2);
  EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes);
  if (o.cache_positions == 0) {
    EXPECT_EQ(engine.seen_class_bytes(), engine.programs().plan.class_bytes);
  }
  ASSERT_EQ(engine.host_arena() != nullptr, engine.programs().plan.host_bytes > 0);
  if (engine.host_arena() == nullptr) return;
  EXPECT_EQ(engine.host_arena()->high_water(), engine.programs().plan.host_bytes);
}

TEST_P(MemoryContract, OpsDoNotAllocateAfterTheFirstStep) {
  const ProgramOptions o = options();
  Engine engine(build_programs(o), {o.threads, false, {}, nullptr});
  engine.initialise(1);
  run_everything(engine, o, 1);
  AllocationCounter::start();
  run_everything(engine, o, 2);
  EXPECT_EQ(AllocationCounter::count(), 0);
}

TEST_P(MemoryContract, PoisonChangesNoBit) {
  const ProgramOptions o = options();
  std::vector<std::vector<double>> parameters;
  for (const bool poison : {false, true}) {
    Engine engine(build_programs(o), {o.threads, poison, {}, nullptr});
    engine.initialise(1);
    run_everything(engine, o, 3);
    parameters.push_back(region_values(engine, "parameters"));
  }
  EXPECT_EQ(parameters[0], parameters[1]);
  for (const double x : parameters[0]) ASSERT_TRUE(std::isfinite(x));
}

INSTANTIATE_TEST_SUITE_P(
    Models, MemoryContract,
    testing::Values(
        Case{"gpt2_train", ModelFamily::Gpt2, true, false, 0, 1},
        Case{"gpt2_train_evaluate", ModelFamily::Gpt2, true, true, 0, 2},
        Case{"gpt2_evaluate", ModelFamily::Gpt2, false, true, 0, 1},
        Case{"gpt2_evaluate_17", ModelFamily::Gpt2, false, true, 0, 1, DType::f32, 17},
        Case{"llama_evaluate_17", ModelFamily::Llama, false, true, 0, 3, DType::f32, 17},
        Case{"gpt2_decode", ModelFamily::Gpt2, false, false, 80, 1},
        Case{"gpt2_decode_5", ModelFamily::Gpt2, false, false, 80, 1, DType::f32, 64, 5},
        Case{"llama_decode_1", ModelFamily::Llama, false, false, 80, 2, DType::f32, 64, 1},
        Case{"llama_decode_5", ModelFamily::Llama, false, false, 80, 4, DType::f32, 64, 5},
        Case{"llama_train", ModelFamily::Llama, true, false, 0, 1},
        Case{"llama_train_evaluate", ModelFamily::Llama, true, true, 0, 2},
        Case{"llama_decode", ModelFamily::Llama, false, false, 80, 2},
        Case{"llama_train_f64", ModelFamily::Llama, true, true, 0, 1, DType::f64},
        Case{"gpt2_train_full", ModelFamily::Gpt2, true, true, 0, 2, DType::f32, 64, 70, RecomputeMode::Full},
        Case{"llama_train_full", ModelFamily::Llama, true, true, 0, 2, DType::f32, 77, 70, RecomputeMode::Full},
        Case{"llama_train_selective", ModelFamily::Llama, true, false, 0, 1, DType::f64, 64, 70,
             RecomputeMode::Selective},
        Case{"gpt2_train_offload", ModelFamily::Gpt2, true, true, 0, 2, DType::f32, 64, 70, RecomputeMode::Offload},
        Case{"llama_train_offload", ModelFamily::Llama, true, true, 0, 1, DType::f64, 77, 70, RecomputeMode::Offload},
        Case{"gpt2_train_short", ModelFamily::Gpt2, true, true, 0, 1, DType::f32, 12},
        Case{"llama_train_odd", ModelFamily::Llama, true, true, 0, 2, DType::f32, 77}),
    [](const auto& c) { return c.param.name; });

// Lengths around the tiles of attention, with more and fewer threads than heads.
TEST(HighWater, IsThePlanForShortSequencesAndPrompts) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const int threads : {1, threads_of(3)}) {
      ProgramOptions o = tiny_options(family);
      o.train = false;
      o.micro_batch = 1;
      o.threads = threads;
      const auto expect = [&](const std::string& what, const auto& run) {
        Engine engine(build_programs(o), {threads, false, {}, nullptr});
        engine.initialise(1);
        run(engine);
        EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes)
            << what << ", " << threads << " threads, " << (family == ModelFamily::Gpt2 ? "gpt2" : "llama");
      };
      o.evaluate = true;
      for (const std::int64_t sequence : {1, 2, 5, 16, 17, 33, 48, 63, 64, 65}) {
        o.sequence = sequence;
        expect(fmt::format("evaluate {}", sequence), [&](Engine& engine) {
          const TinyBatch batch = tiny_batch(o, 99, 0, 1);
          double sum = 0, count = 0;
          engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
        });
      }
      o.evaluate = false;
      for (const std::int64_t positions : {8, 20, 80}) {
        o.cache_positions = o.model.positions = positions;
        for (const std::int64_t prompt : {1, 5, 17}) {
          expect(fmt::format("prompt {} of {}", prompt, positions), [&](Engine& engine) {
            generate(engine, tiny_tokens(prompt, 37, 1), 1, {}, [](std::int32_t) { return true; });
          });
        }
      }
    }
  }
}

TEST(AllocationCounter, CountsOnlyWithinNodes) {
  AllocationCounter::start();
  std::vector<int>* outside = new std::vector<int>(10);
  delete outside;
  EXPECT_EQ(AllocationCounter::count(), 0);
  begin_counted_region();
  void* inside = ::operator new(16);
  end_counted_region();
  ::operator delete(inside);
  EXPECT_EQ(AllocationCounter::count(), 1);
}

TEST(Budget, WhatDoesNotFitNamesTheLargestTensors) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.micro_batch = 4;
  const Programs programs = build_programs(o);
  EXPECT_EQ(check_budget(programs, o, programs.plan.total_bytes + 100, 100), std::nullopt);
  const auto no = check_budget(programs, o, programs.plan.total_bytes + 99, 100);
  ASSERT_TRUE(no);
  EXPECT_EQ(no->needed_bytes, programs.plan.total_bytes + 100);
  EXPECT_LE(no->bound_bytes, no->needed_bytes);
  EXPECT_GT(no->bound_bytes, programs.plan.persistent_bytes);
  for (const char* part : {"memory.budget", "parameters", "gradients", "optimizer.first", "optimizer.second",
                           "no plan of any recomputation needs less than ", ", a lower bound\n"}) {
    EXPECT_NE(no->text.find(part), std::string::npos) << part << " in\n" << no->text;
  }
}

// Fewer logits at a time cost less time than smaller micro-batches, so they go first.
TEST(Budget, LogitsShrinkBeforeTheMicroBatch) {
  Config config;
  config.model = tiny_model(ModelFamily::Gpt2);
  config.model.vocabulary = 100'000;
  config.model.positions = 512;
  config.data.sequence = 512;
  config.train.global_batch = 4;
  const auto choose = [&](std::int64_t budget) { return choose_programs(config, {}, Purpose::Train, budget, 0); };
  const ProgramOptions most = choose(0);
  EXPECT_EQ(most.micro_batch, 4);
  EXPECT_EQ(most.logits_bytes, kLogitsBytes);
  const ProgramOptions less = choose(build_programs(most).plan.total_bytes - 1);
  EXPECT_EQ(less.micro_batch, 4);
  EXPECT_EQ(less.logits_bytes, kLogitsBytes / 2);
  const ProgramOptions least = choose(1);
  EXPECT_EQ(least.micro_batch, 1);
  EXPECT_EQ(least.logits_bytes, kLogitsBytes / 8);
  config.memory.logits = 1;
  EXPECT_EQ(choose(0).logits_bytes, 1);
  EXPECT_LT(build_programs(choose(0)).plan.total_bytes, build_programs(least).plan.total_bytes);
}

TEST(Budget, ARunThatDoesNotFitStopsBeforeItAllocates) {
  const TempFolder folder;
  write_tiny_data(folder);
  // An arena of many gigabytes could not be allocated unnoticed.
  const Config config =
      tiny_config(folder, "run", {"memory.budget=5GiB", "memory.reserve=4GiB", "model.hidden=4096", "model.layers=48"});
  const MpiSession mpi;
  try {
    train(config, mpi);
    FAIL() << "the run fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
    EXPECT_NE(std::string(error.what()).find("largest at the peak"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("optimizer.first"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

}  // namespace
}  // namespace plimsoll
