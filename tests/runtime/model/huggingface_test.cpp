#include "runtime/model/huggingface.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/checkpoint/json_file.hpp"
#include "runtime/checkpoint/safetensors.hpp"
#include "runtime/checkpoint/weights.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/golden.hpp"

namespace plimsoll {
namespace {

using nlohmann::json;

json gpt2() {
  return json::parse(R"({"model_type":"gpt2","n_layer":3,"n_embd":64,"n_head":4,"n_positions":64,"vocab_size":257,
    "n_inner":null,"activation_function":"gelu_new","resid_pdrop":0.1,"embd_pdrop":0.1,"attn_pdrop":0.1,
    "layer_norm_epsilon":1e-5,"n_ctx":64,"architectures":["GPT2LMHeadModel"],"summary_type":"cls_index"})");
}

// The older form, as Llama 2 files have it.
json llama() {
  return json::parse(R"({"model_type":"llama","num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,
    "num_key_value_heads":2,"intermediate_size":160,"max_position_embeddings":128,"vocab_size":300,"hidden_act":"silu",
    "rms_norm_eps":1e-5,"rope_theta":500000.0,"rope_scaling":null,"torch_dtype":"bfloat16",
    "tie_word_embeddings":false,"pretraining_tp":1,"bos_token_id":1})");
}

json qwen(const std::string& type) {
  json config = llama();
  config["model_type"] = type;
  config["head_dim"] = 32;
  config["sliding_window"] = 32;
  config["use_sliding_window"] = false;
  config["max_window_layers"] = 0;
  return config;
}

std::string refusal(const json& config) {
  try {
    model_from_huggingface(config, "config.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
    return error.what();
  }
  return "";
}

// Sets keys of `base` and expects a message that names the last of them.
void expect_refused(json base, std::string_view changes) {
  const json patch = json::parse(changes);
  for (const auto& [key, value] : patch.items()) base[key] = value;
  const std::string message = refusal(base);
  EXPECT_NE(message.find(patch.begin().key()), std::string::npos) << changes << " → " << message;
}

void expect_accepted(json base, std::string_view changes) {
  base.update(json::parse(changes));
  EXPECT_EQ(refusal(base), "") << changes;
}

TEST(HuggingFace, ReadsGpt2) {
  const ModelConfig model = model_from_huggingface(gpt2(), "config.json");
  EXPECT_EQ(model.family, ModelFamily::Gpt2);
  EXPECT_EQ(model.layers, 3);
  EXPECT_EQ(model.head_dim, 16);
  EXPECT_EQ(model.kv_heads, 4);
  EXPECT_EQ(model.ffn, 256);
  EXPECT_EQ(model.dropout, 0.1);
  EXPECT_TRUE(model.bias);
  EXPECT_TRUE(model.tied);
  EXPECT_EQ(model.activation, Activation::GeluTanh);
  json other = gpt2();
  other.update(json::parse(R"({"n_inner":100,"tie_word_embeddings":false,"activation_function":"gelu"})"));
  EXPECT_EQ(model_from_huggingface(other, "").ffn, 100);
  EXPECT_FALSE(model_from_huggingface(other, "").tied);
  EXPECT_EQ(model_from_huggingface(other, "").activation, Activation::GeluErf);
}

TEST(HuggingFace, ReadsBothFormsOfLlama) {
  const ModelConfig older = model_from_huggingface(llama(), "config.json");
  EXPECT_EQ(older.rope.theta, 500000.0);
  EXPECT_EQ(older.kv_heads, 2);
  EXPECT_EQ(older.head_dim, 16);
  EXPECT_FALSE(older.bias);
  EXPECT_FALSE(older.tied);
  json newer = llama();
  newer.erase("rope_theta");
  newer["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_EQ(model_from_huggingface(newer, "config.json"), older);

  json scaled = llama();
  scaled["rope_scaling"] = json::parse(R"({"type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
    "original_max_position_embeddings":32})");
  const ModelConfig llama3 = model_from_huggingface(scaled, "config.json");
  EXPECT_EQ(llama3.rope.scaling, RopeScaling::Llama3);
  EXPECT_EQ(llama3.rope.original_positions, 32);
  EXPECT_EQ(llama3.rope.theta, 500000.0);
  scaled["rope_scaling"] = json::parse(R"({"rope_type":"linear","factor":2})");
  EXPECT_EQ(model_from_huggingface(scaled, "").rope.scaling, RopeScaling::Linear);
  EXPECT_EQ(model_from_huggingface(scaled, "").rope.factor, 2.0);
  // The first Llama says neither theta nor key/value heads.
  json first = llama();
  first.erase("rope_theta");
  first.erase("num_key_value_heads");
  EXPECT_EQ(model_from_huggingface(first, "").rope.theta, 10000.0);
  EXPECT_EQ(model_from_huggingface(first, "").kv_heads, 4);
}

TEST(HuggingFace, ReadsQwen) {
  const ModelConfig two = model_from_huggingface(qwen("qwen2"), "config.json");
  EXPECT_TRUE(two.qkv_bias);
  EXPECT_FALSE(two.bias);
  EXPECT_FALSE(two.qk_norm);
  const ModelConfig three = model_from_huggingface(qwen("qwen3"), "config.json");
  EXPECT_FALSE(three.qkv_bias);
  EXPECT_TRUE(three.qk_norm);
  EXPECT_EQ(three.head_dim, 32);
}

TEST(HuggingFace, ThePaddingIdIsARowWithoutGradientInLlamaAndQwen) {
  const auto with = [](json config, const json& id) {
    config["pad_token_id"] = id;
    model_from_huggingface(config, "config.json");  // it does not change what the model computes
    return padding_id(config);
  };
  for (const json& config : {llama(), qwen("qwen2"), qwen("qwen3")}) {
    EXPECT_EQ(padding_id(config), std::nullopt);
    EXPECT_EQ(with(config, nullptr), std::nullopt);
    EXPECT_EQ(with(config, 0), 0);
    EXPECT_EQ(with(config, 299), 299);
    EXPECT_EQ(with(config, -1), 299);  // as torch counts
    EXPECT_EQ(with(config, 300), std::nullopt);
    EXPECT_EQ(with(config, -301), std::nullopt);
  }
  EXPECT_EQ(with(gpt2(), 0), std::nullopt);
}

TEST(HuggingFace, WhatChangesTheComputationIsRefusedByName) {
  for (const char* changes : {R"({"activation_function":"relu"})",
                              R"({"scale_attn_weights":false})",
                              R"({"n_ctx":32})",
                              R"({"n_head":5})",
                              R"({"scale_attn_by_inverse_layer_idx":true})",
                              R"({"add_cross_attention":true})",
                              R"({"attn_pdrop":0.2})",
                              R"({"embd_pdrop":0.0})",
                              R"({"is_encoder_decoder":true})",
                              R"({"pruned_heads":{"0":[1]}})",
                              R"({"architectures":["GPT2ForSequenceClassification"]})",
                              R"({"is_causal":false})",
                              R"({"n_layer":0})",
                              R"({"n_layer":"3"})",
                              R"({"n_layer":3.5})",
                              R"({"n_embd":-64})",
                              R"({"n_inner":99999999999})",
                              R"({"vocab_size":null})",
                              R"({"hidden_size":32})",
                              R"({"tie_word_embeddings":"yes"})",
                              R"({"plimsoll":[]})",
                              R"({"auto_map":{"AutoModel":"x.Y"}})",
                              R"({"plimsoll":{"unheard_of":1}})"})
    expect_refused(gpt2(), changes);
  for (const char* changes : {R"({"attention_bias":true})",
                              R"({"mlp_bias":true})",
                              R"({"hidden_act":"gelu"})",
                              R"({"sliding_window":64})",
                              R"({"partial_rotary_factor":0.5})",
                              R"({"attention_dropout":0.1})",
                              R"({"quantization_config":{"bits":4}})",
                              R"({"layer_types":["full_attention","sliding_attention"]})",
                              R"({"layer_types":["full_attention"]})",
                              R"({"num_key_value_heads":3})",
                              R"({"head_dim":15})",
                              R"({"rope_scaling":{"type":"dynamic","factor":2}})",
                              R"({"rope_scaling":{"type":"yarn","factor":2}})",
                              R"({"rope_scaling":{"type":"linear"}})",
                              R"({"rope_scaling":{"type":"mrope","mrope_section":[1]}})",
                              R"({"rope_scaling":{"type":"llama3","factor":8}})",
                              R"({"rope_scaling":{"type":"linear","factor":2,"beta":1}})",
                              R"({"rope_scaling":"linear"})",
                              R"({"rope_parameters":{"rope_type":"default","rope_theta":1.0}})",
                              R"({"rope_theta":-1})",
                              R"({"rope_parameters":{"full_attention":{"rope_theta":500000.0}}})",
                              R"({"rope_parameters":{"rope_theta":500000.0,"partial_rotary_factor":0.5}})"})
    expect_refused(llama(), changes);
  expect_refused(qwen("qwen2"), R"({"sliding_window":64,"use_sliding_window":true})");
  expect_refused(qwen("qwen3"), R"({"attention_bias":true})");
  expect_refused(qwen("qwen3"), R"({"head_dim":null})");
  expect_refused(qwen("qwen2"), R"({"rope_theta":null})");
  for (const char* type : {"mistral", "gpt_neox", "", "qwen2_moe"}) {
    json config = llama();
    config["model_type"] = type;
    EXPECT_NE(refusal(config).find(fmt::format("model_type '{}'", type)), std::string::npos);
  }
  EXPECT_NE(refusal(json::array()).find("object"), std::string::npos);
}

TEST(HuggingFace, EveryComplaintIsListedAtOnce) {
  json config = llama();
  config.update(json::parse(R"({"hidden_act":"relu","mlp_bias":true,"attention_dropout":0.5})"));
  const std::string message = refusal(config);
  for (const char* part : {"hidden_act: \"relu\"", "mlp_bias: true", "attention_dropout: 0.5"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(HuggingFace, AKeyThatIsNotKnownIsRefusedByName) {
  for (const char* key : {"logit_softcap", "final_logit_softcapping", "query_pre_attn_scalar", "logit_scale"}) {
    json config = llama();
    config[key] = 30.0;
    EXPECT_NE(refusal(config).find(fmt::format("{}: is not known for model_type llama", key)), std::string::npos);
  }
  json config = llama();
  config["rope_interleaved"] = true;
  EXPECT_NE(refusal(config).find("rope_interleaved: true"), std::string::npos);
}

TEST(HuggingFace, WhatDoesNotChangeTheComputationPasses) {
  expect_accepted(gpt2(), R"({"reorder_and_upcast_attn":true,"use_cache":false,"task_specific_params":{"a":{"b":1}}})");
  expect_accepted(llama(), R"({"rope_interleaved":false,"is_llama_config":true})");
  expect_accepted(llama(), R"({"pretraining_tp":2,"layer_types":["full_attention","full_attention"]})");
  expect_accepted(llama(), R"({"attention_bias":true,"mlp_bias":true})");
  expect_accepted(qwen("qwen2"), R"({"use_sliding_window":true,"sliding_window":128})");
  expect_accepted(qwen("qwen2"), R"({"use_sliding_window":true,"max_window_layers":2})");
}

TEST(HuggingFace, WritingAndReadingBackGivesTheSameModel) {
  std::vector<ModelConfig> models;
  for (const json& config : {gpt2(), llama(), qwen("qwen2"), qwen("qwen3")})
    models.push_back(model_from_huggingface(config, "config.json"));
  models.push_back(models[1]);
  models.back().rope = {500000.0, RopeScaling::Llama3, 8.0, 1.0, 4.0, 32};
  models.push_back(models[1]);
  models.back().bias = true;
  for (const ModelConfig& model : models) {
    const json config = model_to_huggingface(model);
    EXPECT_EQ(model_from_huggingface(config, "config.json"), model) << config.dump(1);
    EXPECT_TRUE(huggingface_gaps(config).empty()) << config.dump(1);
  }
  // Models that transformers has no words for.
  ModelConfig odd = models[0];
  odd.bias = false;
  odd.head_dim = 7;
  odd.heads = 5;
  odd.kv_heads = 1;
  odd.dropout = 0.25;
  EXPECT_EQ(model_from_huggingface(model_to_huggingface(odd), "config.json"), odd);
  EXPECT_EQ(huggingface_gaps(model_to_huggingface(odd)), (std::vector<std::string>{"bias", "head_dim", "kv_heads"}));
  odd = models[1];
  odd.qkv_bias = odd.qk_norm = true;
  odd.dropout = 0.1;
  odd.scale_residual_init = true;
  EXPECT_EQ(model_from_huggingface(model_to_huggingface(odd), "config.json"), odd);
  EXPECT_EQ(huggingface_gaps(model_to_huggingface(odd)), (std::vector<std::string>{"qkv_bias"}));
}

class HuggingFaceGolden : public testing::TestWithParam<const char*> {};

TEST_P(HuggingFaceGolden, ConfigAndWeightsFitTheReference) {
  const auto shared = test::shared_folder();
  if (!shared || !std::filesystem::exists(*shared / "golden")) GTEST_SKIP() << "the reference models are not here";
  const std::filesystem::path folder = *shared / "golden" / GetParam();
  const json golden = read_json_file(folder / "golden.json");
  const ModelConfig model = model_from_huggingface_folder(folder);
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder);
  EXPECT_EQ(weights.parameter_elements(), golden["parameters"].get<std::int64_t>());
  EXPECT_EQ(parameter_count(model), golden["parameters"].get<std::int64_t>());
  EXPECT_EQ(resolve(model), model);
  EXPECT_EQ(model_from_huggingface(model_to_huggingface(model), "config.json"), model);
  EXPECT_TRUE(huggingface_gaps(model_to_huggingface(model)).empty());

  // The stored tokens and logits have the shapes that the model says.
  const SafetensorsFile reference = SafetensorsFile::open(folder / "golden.safetensors");
  const Shape batch{golden["B"].get<std::int64_t>(), golden["T"].get<std::int64_t>()};
  EXPECT_EQ(reference.spec("tokens"), (TensorSpec{batch, DType::i32}));
  EXPECT_EQ(reference.spec("logits"), (TensorSpec{{batch[0], batch[1], model.vocabulary}, DType::f32}));
  // Names and shapes are those of the gradients; bf16 shards widen exactly.
  const SafetensorsFile gradients = SafetensorsFile::open(folder / "grads.safetensors");
  for (const auto& [name, entry] : gradients.tensors()) {
    const TensorSpec spec = weights.spec(name);
    EXPECT_EQ(spec.shape, entry.shape) << name;
    std::vector<float> values(static_cast<std::size_t>(spec.elements()));
    weights.read_into(name, {values.data(), {spec.shape, DType::f32}});
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float v) { return v != 0.0F; })) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, HuggingFaceGolden,
                         testing::Values("gpt2", "llama_gqa", "llama3_rope", "qwen2", "qwen3", "llama_bf16_sharded"),
                         [](const auto& model) { return std::string(model.param); });

}  // namespace
}  // namespace plimsoll
