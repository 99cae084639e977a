// Weights of a Hugging Face folder are the model's, all of them.

#include "launch/engine.hpp"

#include <gtest/gtest.h>

#include "runtime/checkpoint/safetensors_writer.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

// The parameters of `engine`, and `more`, as a folder; what loading it into another engine says.
std::string fault_of_loading(Engine& engine, const std::vector<TensorSource>& more, const ProgramOptions& into) {
  const TempFolder folder;
  std::vector<TensorSource> sources = more;
  for (const NamedTensor& t : engine.tensors("parameters")) sources.push_back({t.name, t.spec, t.data});
  write_safetensors(folder / "model.safetensors", sources);
  Engine other(build_programs(into), {1, false, {}, nullptr});
  try {
    other.load(HuggingFaceWeights::open(folder.path()));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::BadData);
    return error.what();
  }
  if (other.programs().tensors.size() == engine.programs().tensors.size()) {
    EXPECT_EQ(region_values(engine, "parameters"), region_values(other, "parameters"));
  }
  return "";
}

TEST(EngineWeights, WhatTheModelHasNoPlaceForIsRefused) {
  ProgramOptions fewer = tiny_options(ModelFamily::Gpt2), whole = fewer;
  fewer.model.layers = 1;
  Engine engine(build_programs(whole), {1, false, {}, nullptr});
  engine.initialise(3);
  EXPECT_EQ(fault_of_loading(engine, {}, whole), "");
  const std::string fault = fault_of_loading(engine, {}, fewer);
  EXPECT_NE(fault.find(": the model has no place for 12 of its tensors: transformer.h.1.attn.c_attn.bias, "
                       "transformer.h.1.attn.c_attn.weight, transformer.h.1.attn.c_proj.bias, ..."),
            std::string::npos)
      << fault;
}

TEST(EngineWeights, ATiedHeadMayBeThereTwice) {
  const ProgramOptions options = tiny_options(ModelFamily::Gpt2);
  ASSERT_TRUE(options.model.tied);
  Engine engine(build_programs(options), {1, false, {}, nullptr});
  engine.initialise(3);
  const NamedTensor embedding = engine.tensors("parameters").front();
  ASSERT_TRUE(embedding.name.ends_with("wte.weight")) << embedding.name;
  std::vector<float> head(static_cast<std::size_t>(embedding.spec.elements()));
  std::memcpy(head.data(), embedding.data, head.size() * sizeof(float));
  const std::vector<TensorSource> again{{"lm_head.weight", embedding.spec, head.data()}};
  EXPECT_EQ(fault_of_loading(engine, again, options), "");
  head.back() += 1;
  const std::string fault = fault_of_loading(engine, again, options);
  EXPECT_NE(fault.find("no place for 1 of its tensors: lm_head.weight"), std::string::npos) << fault;
}

}  // namespace
}  // namespace plimsoll
