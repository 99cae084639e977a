// Training in half precision: it follows fp32, goes on bit for bit, and fp16 skips what overflows.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/export.hpp"
#include "launch/run_files.hpp"
#include "optim/loss_scale.hpp"
#include "optim/update.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "tests/launch/quiet_run.hpp"

namespace plimsoll {
namespace {

using namespace test;
namespace fs = std::filesystem;

constexpr std::array kHalves{DType::bf16, DType::f16};

std::unique_ptr<Engine> tiny_engine(ModelFamily family, DType dtype) {
  ProgramOptions o = tiny_options(family);
  o.dtype = dtype;
  auto engine = std::make_unique<Engine>(build_programs(o), EngineOptions{});
  engine->initialise(1);
  engine->set_loss_scale(dtype == DType::f16 ? 1024 : 1);
  return engine;
}

// Half precision has 8 or 11 digits; the losses of thirty steps stay within a hundredth of those of fp32.
TEST(MixedTraining, FollowsSinglePrecision) {
  constexpr double kTolerance = 0.01;
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    const ProgramOptions o = tiny_options(family);
    const auto losses = [&](DType dtype) {
      const auto engine = tiny_engine(family, dtype);
      std::vector<double> all;
      for (std::int64_t step = 0; step < 30; ++step) all.push_back(tiny_step(*engine, o, step, 0, 8, 8).loss());
      return all;
    };
    const std::vector<double> single = losses(DType::f32);
    EXPECT_LT(single.back(), 0.9 * single.front());
    for (const DType dtype : kHalves) {
      const std::vector<double> half = losses(dtype);
      for (std::size_t i = 0; i < half.size(); ++i)
        EXPECT_NEAR(half[i], single[i], kTolerance * single[i]) << dtype_name(dtype) << " step " << i;
      EXPECT_NE(half, single);
    }
  }
}

void expect_rounded_masters(Engine& engine) {
  const std::vector<double> masters = region_values(engine, kMasterWeights);
  std::vector<double> rounded(masters.size());
  std::vector<std::byte> half(2 * masters.size());
  const DType dtype = engine.programs().dtype();
  convert_elements(DType::f64, masters.data(), dtype, half.data(), std::ssize(masters));
  convert_elements(dtype, half.data(), DType::f64, rounded.data(), std::ssize(masters));
  EXPECT_EQ(region_values(engine, "parameters"), rounded);
  EXPECT_NE(masters, rounded);
}

TEST(MixedTraining, ParametersAreTheRoundedMasters) {
  for (const OptimizerName optimizer : {OptimizerName::AdamW, OptimizerName::Sgd}) {
    for (const DType dtype : kHalves) {
      ProgramOptions o = tiny_options(ModelFamily::Gpt2);
      o.dtype = dtype;
      o.optimizer.name = optimizer;
      Engine engine(build_programs(o), {});
      engine.initialise(1);
      expect_rounded_masters(engine);
      const std::vector<double> before = region_values(engine, kMasterWeights);
      for (std::int64_t step = 0; step < 3; ++step) tiny_step(engine, o, step, 0, 4, 4);
      expect_rounded_masters(engine);
      EXPECT_NE(region_values(engine, kMasterWeights), before);
    }
  }
}

TEST(MixedTraining, AnOverflowChangesNothing) {
  const ProgramOptions o = tiny_options(ModelFamily::Llama);
  const auto engine = tiny_engine(ModelFamily::Llama, DType::f16);
  EXPECT_TRUE(tiny_step(*engine, o, 0, 0, 4, 4).applied);
  const auto state = [&] {
    std::vector<std::vector<double>> all;
    for (const char* region : {"parameters", "optimizer.master", "optimizer.first", "optimizer.second"})
      all.push_back(region_values(*engine, region));
    return all;
  };
  const auto before = state();
  engine->set_loss_scale(1e9);
  EXPECT_FALSE(tiny_step(*engine, o, 1, 0, 4, 4).applied);
  EXPECT_EQ(state(), before);
  engine->set_loss_scale(1024);
  EXPECT_TRUE(tiny_step(*engine, o, 2, 0, 4, 4).applied);
  EXPECT_NE(state(), before);
}

// Powers of two scale gradients without rounding, so the scale changes no bit where nothing over- or underflows.
TEST(MixedTraining, TheLossScaleIsDividedOutOfTheUpdate) {
  const ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  const auto run = [&](double scale) {
    const auto engine = tiny_engine(ModelFamily::Gpt2, DType::bf16);
    engine->set_loss_scale(scale);
    const StepResult result = tiny_step(*engine, o, 0, 0, 4, 4);
    EXPECT_TRUE(result.applied);
    return std::pair(result.grad_norm, region_values(*engine, kMasterWeights));
  };
  EXPECT_EQ(run(1), run(4096));
}

class MixedRun : public testing::TestWithParam<std::string> {};

// With so few tokens a step that the first scale of fp16 overflows: it skips the first steps.
std::vector<std::string> overrides(const std::string& precision) {
  std::vector<std::string> all{"precision=" + precision.substr(0, 4)};
  if (precision == "bf16_stochastic") all.emplace_back("optimizer.rounding=stochastic");
  if (precision == "bf16_fp8") all.emplace_back("fp8=linears");
  if (precision != "fp16") return all;
  for (const char* other : {"data.sequence=1", "train.global_batch=1", "train.micro_batch=1", "model.vocabulary=50000"})
    all.emplace_back(other);
  return all;
}

TEST_P(MixedRun, ResumedIsBitwiseTheUninterruptedOne) {
  const TempFolder folder;
  write_tiny_data(folder);
  const auto config = [&](const std::string& run) { return tiny_config(folder, run, overrides(GetParam())); };
  train_quietly(config("whole"));
  fs::copy(folder / "whole", folder / "resumed", fs::copy_options::recursive);
  ASSERT_TRUE(fs::remove_all(folder / "resumed/checkpoints/step_00000006") > 0);
  train_quietly(config("resumed"));
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    const std::string name = std::string("checkpoints/step_00000006/") + file;
    EXPECT_EQ(read_text(folder / "whole" / name), read_text(folder / "resumed" / name)) << name;
  }
  EXPECT_EQ(lasting_metrics(folder / "whole"), lasting_metrics(folder / "resumed"));
  const LoadedCheckpoint loaded = load_checkpoint(folder / "whole/checkpoints/step_00000006");
  for (const auto& [name, tensor] : loaded.parameters.tensors()) EXPECT_EQ(tensor.dtype, DType::f32) << name;
}

INSTANTIATE_TEST_SUITE_P(Precisions, MixedRun, testing::Values("bf16", "bf16_stochastic", "bf16_fp8", "fp16"),
                         [](const auto& p) { return p.param; });

// Where training needs it: steps of a weight that are far below a step of bf16 move what kernels read, in the mean.
TEST(MixedTraining, StochasticRoundingFollowsTheMasters) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.dtype = DType::bf16;
  o.optimizer.rounding = WeightRounding::Stochastic;
  Engine engine(build_programs(o), {});
  engine.initialise(1);
  expect_rounded_masters(engine);  // the first ones are drawn, and rounded to nearest
  std::vector<double> losses;
  for (std::int64_t step = 0; step < 30; ++step) losses.push_back(tiny_step(engine, o, step, 0, 8, 8).loss());
  EXPECT_LT(losses.back(), 0.9 * losses.front());
  const std::vector<double> masters = region_values(engine, kMasterWeights), read = region_values(engine, "parameters");
  double difference = 0, variance = 0;
  std::int64_t not_nearest = 0;
  for (std::size_t i = 0; i < masters.size(); ++i) {
    if (masters[i] == 0) continue;
    const double step = std::exp2(std::floor(std::log2(std::fabs(masters[i]))) - 7);
    ASSERT_LT(std::fabs(read[i] - masters[i]), step) << i;
    not_nearest += std::fabs(read[i] - masters[i]) > step / 2 ? 1 : 0;
    difference += read[i] - masters[i];
    variance += step * step / 6;
  }
  EXPECT_LT(std::fabs(difference), 5 * std::sqrt(variance));
  EXPECT_GT(not_nearest, std::ssize(masters) / 8);
}

TEST(MixedTraining, Fp16HalvesItsScaleWhereItSkips) {
  const TempFolder folder;
  write_tiny_data(folder);
  testing::internal::CaptureStderr();
  const std::string out = train_quietly(tiny_config(folder, "run", overrides("fp16")));
  const std::string said = testing::internal::GetCapturedStderr() + out;
  EXPECT_NE(said.find("step 1: the gradients are not finite"), std::string::npos) << said;
  const double first = LossScaleConfig{}.initial;
  double expected = first;
  std::int64_t skipped = 0;
  const auto lines = metric_lines(folder / "run");
  std::vector<double> scales;
  for (const auto& line : lines)
    if (line.contains("loss_scale")) scales.push_back(line["loss_scale"]);
  ASSERT_EQ(scales.size(), 6U);
  for (const double scale : scales) {
    skipped += scale < expected ? 1 : 0;
    if (scale < expected) expected /= 2;
    EXPECT_EQ(scale, expected);
  }
  EXPECT_EQ(scales[1], first / 2);
  const TrainingState state = load_checkpoint(folder / "run/checkpoints/step_00000006").state;
  EXPECT_EQ(state.loss_scale, scales.back());
  EXPECT_EQ(state.applied_updates + skipped, 6);
  EXPECT_EQ(state.loss_scale_streak, 6 - skipped);
  EXPECT_GT(state.applied_updates, 0);
}

TEST(MixedTraining, Fp16TakesTheLossScaleOfItsConfiguration) {
  const TempFolder folder;
  write_tiny_data(folder);
  std::vector<std::string> settings = overrides("fp16");
  for (const char* key : {"initial=8", "window=2"}) settings.push_back(fmt::format("optimizer.loss_scale.{}", key));
  train_quietly(tiny_config(folder, "run", settings));
  std::vector<double> scales;
  for (const auto& line : metric_lines(folder / "run"))
    if (line.contains("loss_scale")) scales.push_back(line["loss_scale"]);
  EXPECT_EQ(scales, (std::vector<double>{8, 8, 16, 16, 32, 32}));
}

// Export rounds to the precision of the run, and a run that starts from there has those parameters.
TEST(MixedTraining, ExportsAndStartsFromItsOwnPrecision) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run", {"precision=bf16"}));
  export_run(folder / "run", folder / "exported");
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder / "exported");
  const LoadedCheckpoint saved = load_checkpoint(folder / "run/checkpoints/step_00000006");
  for (const std::string& name : weights.parameter_names()) {
    EXPECT_EQ(weights.spec(name).dtype, DType::bf16) << name;
    const std::int64_t n = weights.spec(name).elements();
    std::vector<float> exported(static_cast<std::size_t>(n)), master(exported);
    weights.read_elements(name, 0, n, DType::f32, exported.data());
    saved.parameters.read_elements(name, 0, n, DType::f32, master.data());
    for (float& x : master) x = static_cast<float>(bf16(x));
    EXPECT_EQ(exported, master) << name;
  }
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.model.positions = 64;
  o.dtype = DType::bf16;
  Engine engine(build_programs(o), {});
  engine.load(weights);
  EXPECT_EQ(region_values(engine, "parameters"), region_values(engine, kMasterWeights));
}

}  // namespace
}  // namespace plimsoll
