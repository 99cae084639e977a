#include "runtime/model/presets.hpp"

#include <array>
#include <string_view>

#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

struct Gpt2Shape {
  std::string_view name;
  std::int64_t layers, hidden, heads;
};
constexpr std::array kGpt2{
    Gpt2Shape{"gpt2-124m", 12, 768, 12},
    Gpt2Shape{"gpt2-355m", 24, 1024, 16},
    Gpt2Shape{"gpt2-774m", 36, 1280, 20},
    Gpt2Shape{"gpt2-1558m", 48, 1600, 25},
};

struct LlamaShape {
  std::string_view name;
  std::int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocabulary, positions;
  double theta, norm_eps;
  bool tied;
  double llama3_factor = 0;  // 0: no scaling
  bool qkv_bias = false;
  bool qk_norm = false;
};
constexpr std::array kLlama{
    LlamaShape{"llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 1e4, 1e-5, false},
    LlamaShape{"llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 5e5, 1e-5, false},
    LlamaShape{"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5, 1e-5, false, 8},
    LlamaShape{"llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, 1e-5, true, 32},
    LlamaShape{"llama-3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 5e5, 1e-5, true, 32},
    LlamaShape{"tinyllama-1.1b", 22, 2048, 32, 4, 64, 5632, 32000, 2048, 1e4, 1e-5, false},
    LlamaShape{"qwen2.5-0.5b", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, true, 0, true},
    LlamaShape{"qwen2.5-1.5b", 28, 1536, 12, 2, 128, 8960, 151936, 131072, 1e6, 1e-6, true, 0, true},
    LlamaShape{"qwen3-0.6b", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e6, 1e-6, true, 0, false, true},
    LlamaShape{"qwen3-1.7b", 28, 2048, 16, 8, 128, 6144, 151936, 40960, 1e6, 1e-6, true, 0, false, true},
};

ModelConfig gpt2_model(const Gpt2Shape& shape) {
  ModelConfig model = family_defaults(ModelFamily::Gpt2);
  model.preset = shape.name;
  model.layers = shape.layers;
  model.hidden = shape.hidden;
  model.heads = shape.heads;
  model.vocabulary = 50257;
  model.positions = 1024;
  return model;
}

ModelConfig llama_model(const LlamaShape& shape) {
  ModelConfig model = family_defaults(ModelFamily::Llama);
  model.preset = shape.name;
  model.layers = shape.layers;
  model.hidden = shape.hidden;
  model.heads = shape.heads;
  model.kv_heads = shape.kv_heads;
  // Left to resolve() where it follows from the others, so that overriding `hidden` or `heads` keeps a valid model.
  model.head_dim = shape.head_dim * shape.heads == shape.hidden ? 0 : shape.head_dim;
  model.ffn = shape.ffn;
  model.vocabulary = shape.vocabulary;
  model.positions = shape.positions;
  model.norm_eps = shape.norm_eps;
  model.tied = shape.tied;
  model.qkv_bias = shape.qkv_bias;
  model.qk_norm = shape.qk_norm;
  model.rope.theta = shape.theta;
  if (shape.llama3_factor > 0) {
    model.rope.scaling = RopeScaling::Llama3;
    model.rope.factor = shape.llama3_factor;
    model.rope.original_positions = 8192;
  }
  return model;
}

}  // namespace

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const Gpt2Shape& shape : kGpt2) names.emplace_back(shape.name);
  for (const LlamaShape& shape : kLlama) names.emplace_back(shape.name);
  return names;
}

std::optional<ModelConfig> find_model_preset(const std::string& name) {
  for (const Gpt2Shape& shape : kGpt2) {
    if (shape.name == name) return gpt2_model(shape);
  }
  for (const LlamaShape& shape : kLlama) {
    if (shape.name == name) return llama_model(shape);
  }
  return std::nullopt;
}

ModelConfig model_preset(const std::string& name) {
  if (auto model = find_model_preset(name)) return *model;
  const std::vector<std::string> names = model_preset_names();
  const auto near = nearest_name(name, names);
  fail(ErrorKind::Config, "model.preset: '{}' is unknown ({})", name,
       near ? fmt::format("did you mean '{}'?", *near) : "known: " + join(names, ", "));
}

}  // namespace plimsoll
