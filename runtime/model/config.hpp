#pragma once
// The model section of a configuration: the shape of a transformer, complete enough to build its graph.
//
// Values are plain. Where 0 is documented as `auto`, resolve() fills it in, except `vocabulary`, which comes from the
// tokenizer of the data. How a struct comes about: model_preset() or family_defaults(), then explicit values over it,
// then resolve(). Sizes are in elements, `positions` in tokens.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/keys_fwd.hpp"
#include "runtime/ops/pointwise.hpp"

namespace plimsoll {

// gpt2: LayerNorm before each block, learned positions, plain MLP. llama: RMSNorm, RoPE, gated MLP, grouped queries
// (Llama 2 and 3, TinyLlama, Qwen 2.5 and 3).
enum class ModelFamily { Gpt2, Llama };

enum class RopeScaling { None, Linear, Llama3 };
constexpr std::array<EnumName, 2> enum_names(ModelFamily) {
  return {named(ModelFamily::Gpt2, "gpt2"), named(ModelFamily::Llama, "llama")};
}
constexpr std::array<EnumName, 3> enum_names(Activation) {
  return {named(Activation::GeluTanh, "gelu_tanh"), named(Activation::GeluErf, "gelu_erf"),
          named(Activation::Silu, "silu")};
}
constexpr std::array<EnumName, 3> enum_names(RopeScaling) {
  return {named(RopeScaling::None, "none"), named(RopeScaling::Linear, "linear"), named(RopeScaling::Llama3, "llama3")};
}

// Rotary positions: the frequency of pair i is theta^(-2i/head_dim), scaled as in the Hugging Face `rope_scaling` of
// the same name.
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::None;
  double factor = 1.0;                  // linear, llama3
  double low_freq_factor = 1.0;         // llama3
  double high_freq_factor = 4.0;        // llama3
  std::int64_t original_positions = 0;  // llama3: the context the model was first trained for; 0: model.positions
  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string preset;  // a name of model_preset_names(), or empty
  std::string from;    // a Hugging Face folder, or empty
  ModelFamily family = ModelFamily::Gpt2;
  std::int64_t layers = 12;
  std::int64_t hidden = 768;
  std::int64_t heads = 12;
  std::int64_t kv_heads = 0;    // 0: auto, heads
  std::int64_t head_dim = 0;    // 0: auto, hidden / heads
  std::int64_t ffn = 0;         // 0: auto, gpt2: 4 * hidden; llama: 8/3 * hidden rounded up to a multiple of 256
  std::int64_t vocabulary = 0;  // 0: auto, from the tokenizer
  std::int64_t positions = 1024;
  Activation activation = Activation::GeluTanh;
  bool bias = true;       // of all linears and, in the gpt2 family, of the norms
  bool qkv_bias = false;  // llama family: of the query, key and value projections only (Qwen 2)
  bool qk_norm = false;   // llama family: RMSNorm over each head's query and key (Qwen 3)
  bool tied = true;       // the head shares the token embedding
  double norm_eps = 1e-5;
  double dropout = 0.0;
  double init_std = 0.02;
  bool scale_residual_init = true;  // projections into the residual stream start with init_std / sqrt(2 * layers); as
                                    // in Hugging Face, false for the llama family
  RopeConfig rope;
  bool operator==(const ModelConfig&) const = default;

  bool has_qkv_bias() const { return bias || qkv_bias; }
  std::int64_t query_size() const { return heads * head_dim; }
  std::int64_t kv_size() const { return kv_heads * head_dim; }
};

// The values a family has when nothing is said.
ModelConfig family_defaults(ModelFamily family);
// Fills in what is `auto` (except vocabulary). Throws Error(Config) with every contradiction.
ModelConfig resolve(ModelConfig given);
// The contradictions of a model as they stand after filling in; keys are relative ("heads").
std::vector<ConfigIssue> model_issues(const ModelConfig& given);
// Trainable parameters of a resolved model; a tied embedding counts once. Needs vocabulary.
std::int64_t parameter_count(const ModelConfig& model);
KeyTable<ModelConfig> model_keys();

}  // namespace plimsoll
