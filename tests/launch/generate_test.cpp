#include "launch/generate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

const std::vector<float> kLogits{0.1F, 2.0F, -1.0F, 1.5F, 0.0F, 1.9F};

std::set<std::int32_t> drawn(const SamplingOptions& options, int draws = 2000) {
  std::set<std::int32_t> tokens;
  for (int d = 0; d < draws; ++d) tokens.insert(sample_token(kLogits, options, static_cast<std::uint64_t>(d)));
  return tokens;
}

TEST(SampleToken, TemperatureZeroIsTheMostLikelyToken) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) EXPECT_EQ(drawn({0.0, 0, 1.0, seed}, 5), std::set<std::int32_t>{1});
}

TEST(SampleToken, TopKKeepsTheKMostLikely) {
  EXPECT_EQ(drawn({1.0, 1, 1.0, 1}), std::set<std::int32_t>{1});
  EXPECT_EQ(drawn({1.0, 3, 1.0, 1}), (std::set<std::int32_t>{1, 3, 5}));
  EXPECT_EQ(drawn({1.0, 0, 1.0, 1}).size(), kLogits.size());
  EXPECT_EQ(drawn({1.0, 100, 1.0, 1}).size(), kLogits.size());
}

TEST(SampleToken, TopPKeepsTheSmallestSetWithThatProbability) {
  EXPECT_EQ(drawn({1.0, 0, 1e-9, 1}), std::set<std::int32_t>{1});
  EXPECT_EQ(drawn({1.0, 0, 0.6, 1}), (std::set<std::int32_t>{1, 5}));  // the two have 0.346 + 0.313
  EXPECT_EQ(drawn({1.0, 2, 1.0, 1}), (std::set<std::int32_t>{1, 5}));
}

TEST(SampleToken, FrequenciesAreThoseOfTheSoftmax) {
  constexpr int kDraws = 20000;
  for (const double temperature : {1.0, 0.5}) {
    std::vector<double> expected(kLogits.size()), found(kLogits.size(), 0.0);
    double sum = 0;
    for (std::size_t i = 0; i < kLogits.size(); ++i) sum += expected[i] = std::exp(kLogits[i] / temperature);
    for (int d = 0; d < kDraws; ++d) {
      found[static_cast<std::size_t>(sample_token(kLogits, {temperature, 0, 1.0, 7}, static_cast<std::uint64_t>(d)))] +=
          1.0 / kDraws;
    }
    for (std::size_t i = 0; i < kLogits.size(); ++i) EXPECT_NEAR(found[i], expected[i] / sum, 0.015) << i;
  }
}

TEST(SampleToken, IsAFunctionOfSeedAndDraw) {
  const auto sequence = [](std::uint64_t seed) {
    std::vector<std::int32_t> tokens;
    for (std::uint64_t d = 0; d < 50; ++d) tokens.push_back(sample_token(kLogits, {1.0, 0, 1.0, seed}, d));
    return tokens;
  };
  EXPECT_EQ(sequence(1), sequence(1));
  EXPECT_NE(sequence(1), sequence(2));
}

// The same tokens by recomputing all logits of the last `positions` tokens for every token.
std::vector<std::int32_t> argmax_without_cache(const ModelConfig& model, std::vector<std::int32_t> tokens,
                                               std::int64_t count) {
  ProgramOptions o;
  o.model = model;
  o.logits = true;
  o.sequence = std::min(static_cast<std::int64_t>(tokens.size()) + count, model.positions);
  Engine engine(build_programs(o), {});
  engine.initialise(11);
  Executor& program = engine.executor("logits");
  const View input = program.view("tokens"), logits = program.view("logits");
  for (std::int64_t i = 0; i < count; ++i) {
    const auto size = std::min(static_cast<std::int64_t>(tokens.size()), o.sequence);
    std::vector<std::int32_t> padded(tokens.end() - size, tokens.end());
    padded.resize(static_cast<std::size_t>(o.sequence), 0);
    engine.device().copy_to_device(input.data, padded.data(), input.spec.bytes());
    program.run(Graph::Section::Forward);
    program.synchronize();
    const float* row = logits.as<float>() + (size - 1) * model.vocabulary;
    tokens.push_back(static_cast<std::int32_t>(std::max_element(row, row + model.vocabulary) - row));
  }
  return tokens;
}

class CachedDecoding : public testing::TestWithParam<ModelFamily> {};

TEST_P(CachedDecoding, EqualsTheArgmaxOfAllLogits) {
  ModelConfig model = tiny_model(GetParam());
  model.init_std = 0.3;  // logits that differ clearly
  model.positions = 140;
  ProgramOptions o;
  o.model = model;
  o.cache_positions = model.positions;
  Engine engine(build_programs(o), {});
  engine.initialise(11);
  for (const std::int64_t length : {1, 2, 63, 64, 65, 66, 128, 129, 130, 136, 139, 140, 141, 300}) {
    const auto prompt = tiny_tokens(length, 37, static_cast<std::uint64_t>(length));
    const auto tokens = generate(engine, prompt, 8, {0.0, 0, 1.0, 1}, [](std::int32_t) { return true; });
    EXPECT_EQ(tokens, argmax_without_cache(model, prompt, 8)) << "prompt of " << length;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CachedDecoding, testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                         [](const auto& c) { return c.param == ModelFamily::Gpt2 ? "gpt2" : "llama"; });

// Fewer positions than a prefill chunk has tokens.
TEST(Generate, SlidesBeyondAShortWindow) {
  ModelConfig model = tiny_model(ModelFamily::Gpt2);
  model.init_std = 0.3;
  model.positions = 9;
  ProgramOptions o;
  o.model = model;
  o.cache_positions = model.positions;
  Engine engine(build_programs(o), {});
  engine.initialise(11);
  const auto prompt = tiny_tokens(4, 37, 1);
  const auto tokens = generate(engine, prompt, 30, {0.0, 0, 1.0, 1}, [](std::int32_t) { return true; });
  EXPECT_EQ(tokens, argmax_without_cache(model, prompt, 30));
}

TEST(Generate, StopsWhenAskedAndRefusesAnEmptyPrompt) {
  ProgramOptions o;
  o.model = tiny_model(ModelFamily::Gpt2);
  o.cache_positions = o.model.positions;
  Engine engine(build_programs(o), {});
  engine.initialise(1);
  int seen = 0;
  EXPECT_EQ(generate(engine, {1, 2}, 10, {}, [&](std::int32_t) { return ++seen < 3; }).size(), 5U);
  try {
    generate(engine, {}, 10, {}, [](std::int32_t) { return true; });
    FAIL() << "an empty prompt was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Usage);
  }
}

}  // namespace
}  // namespace plimsoll
