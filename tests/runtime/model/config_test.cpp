#include "runtime/model/config.hpp"

#include <gtest/gtest.h>

#include <map>

#include "runtime/core/error.hpp"
#include "runtime/model/presets.hpp"

namespace plimsoll {
namespace {

// Sizes of the published checkpoints (a tied head counts once).
TEST(ModelPresets, HaveThePublishedSizes) {
  const std::map<std::string, std::int64_t> sizes{
      {"gpt2-124m", 124439808},       {"gpt2-355m", 354823168},     {"gpt2-774m", 774030080},
      {"gpt2-1558m", 1557611200},     {"llama-2-7b", 6738415616},   {"llama-3-8b", 8030261248},
      {"llama-3.1-8b", 8030261248},   {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824},
      {"tinyllama-1.1b", 1100048384}, {"qwen2.5-0.5b", 494032768},  {"qwen2.5-1.5b", 1543714304},
      {"qwen3-0.6b", 596049920},      {"qwen3-1.7b", 1720574976},
  };
  for (const std::string& name : model_preset_names()) {
    ASSERT_TRUE(sizes.contains(name)) << name;
    EXPECT_EQ(parameter_count(resolve(model_preset(name))), sizes.at(name)) << name;
  }
  EXPECT_EQ(model_preset_names().size(), sizes.size());
}

TEST(ModelPresets, AnUnknownNameGivesAHint) {
  EXPECT_FALSE(find_model_preset("gpt2").has_value());
  try {
    model_preset("llama-3-8B");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    EXPECT_NE(std::string(error.what()).find("did you mean 'llama-3-8b'?"), std::string::npos);
  }
}

TEST(ModelConfig, FillsInWhatFollows) {
  ModelConfig gpt2;
  gpt2.hidden = 64;
  gpt2.heads = 4;
  gpt2 = resolve(gpt2);
  EXPECT_EQ(gpt2.head_dim, 16);
  EXPECT_EQ(gpt2.kv_heads, 4);
  EXPECT_EQ(gpt2.ffn, 256);
  EXPECT_EQ(gpt2.vocabulary, 0);
  EXPECT_EQ(resolve(gpt2), gpt2);

  ModelConfig llama = family_defaults(ModelFamily::Llama);
  llama.hidden = 4096;
  llama.heads = 32;
  EXPECT_EQ(resolve(llama).ffn, 11008);
  llama.rope.scaling = RopeScaling::Llama3;
  EXPECT_EQ(resolve(llama).rope.original_positions, 2048);
  llama.positions = 1024;  // used on shorter texts than it was made for
  llama.rope.original_positions = 8192;
  EXPECT_TRUE(model_issues(llama).empty());
}

TEST(ModelConfig, ReportsEveryContradiction) {
  ModelConfig model = family_defaults(ModelFamily::Llama);
  model.activation = Activation::GeluTanh;
  model.head_dim = 7;
  model.rope.factor = 2;
  EXPECT_EQ(model_issues(model).size(), 3U);
  EXPECT_THROW(resolve(model), Error);
  model = {};
  model.layers = 0;
  model.heads = -1;
  EXPECT_EQ(model_issues(model).size(), 2U);
}

// GPT-2 and Hugging Face's GPT-2 scale the residual projections; Hugging Face's Llama and Qwen draw all alike.
TEST(ModelConfig, OnlyTheGpt2FamilyScalesResidualProjections) {
  EXPECT_TRUE(family_defaults(ModelFamily::Gpt2).scale_residual_init);
  EXPECT_FALSE(family_defaults(ModelFamily::Llama).scale_residual_init);
  for (const std::string& name : model_preset_names()) {
    const ModelConfig model = model_preset(name);
    EXPECT_EQ(model.scale_residual_init, model.family == ModelFamily::Gpt2) << name;
  }
}

}  // namespace
}  // namespace plimsoll
