#include "runtime/model/config.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/presets.hpp"

namespace plimsoll {
namespace {

using Issues = std::vector<ConfigIssue>;

ModelConfig filled(ModelConfig model) {
  if (model.kv_heads == 0) model.kv_heads = model.heads;
  if (model.head_dim == 0 && model.heads > 0) model.head_dim = model.hidden / model.heads;
  if (model.ffn == 0 && model.family == ModelFamily::Gpt2) model.ffn = 4 * model.hidden;
  if (model.ffn == 0 && model.family == ModelFamily::Llama) {
    constexpr std::int64_t kMultiple = 256;  // as the reference implementation of Llama rounds it
    model.ffn = (model.hidden * 8 / 3 + kMultiple - 1) / kMultiple * kMultiple;
  }
  if (model.rope.scaling == RopeScaling::Llama3 && model.rope.original_positions == 0) {
    model.rope.original_positions = model.positions;
  }
  return model;
}

void check_origin(const ModelConfig& given, Issues& issues) {
  if (!given.preset.empty() && !given.from.empty()) {
    issues.push_back({"from", "preset and from exclude each other"});
  }
  const auto preset = given.preset.empty() ? std::nullopt : find_model_preset(given.preset);
  if (preset && preset->family != given.family) {
    issues.push_back({"family", fmt::format("{} is not of the family {}", given.preset, to_text(given.family))});
  }
}

void check_heads(const ModelConfig& given, const ModelConfig& model, Issues& issues) {
  if (given.head_dim == 0 && model.hidden % model.heads != 0) {
    issues.push_back({"heads",
                      fmt::format("hidden {} is not divisible by heads {}", model.hidden, model.heads),
                      {"hidden", "head_dim"}});
    return;
  }
  if (model.kv_heads < 1 || model.heads % model.kv_heads != 0) {
    issues.push_back(
        {"kv_heads", fmt::format("heads {} is not divisible by kv_heads {}", model.heads, model.kv_heads), {"heads"}});
  }
}

void check_gpt2(const ModelConfig& model, Issues& issues) {
  if (model.kv_heads != model.heads) {
    issues.push_back(
        {"kv_heads",
         fmt::format("the gpt2 family has one key and value per head: {} and not {}", model.heads, model.kv_heads),
         {"heads"}});
  }
  if (model.query_size() != model.hidden && model.hidden % model.heads == 0) {
    issues.push_back({"head_dim",
                      fmt::format("the gpt2 family needs hidden / heads = {}", model.hidden / model.heads),
                      {"hidden", "heads"}});
  }
  if (model.activation == Activation::Silu)
    issues.push_back({"activation", "the gpt2 family takes gelu_tanh or gelu_erf"});
  if (model.qkv_bias) issues.push_back({"qkv_bias", "only in the llama family; bias covers all linears of gpt2"});
  if (model.qk_norm) issues.push_back({"qk_norm", "only in the llama family"});
  if (model.rope != RopeConfig{}) issues.push_back({"rope", "the gpt2 family has learned positions"});
}

void check_llama(const ModelConfig& model, Issues& issues) {
  const RopeConfig& rope = model.rope;
  if (model.head_dim % 2 != 0) {
    issues.push_back({"head_dim",
                      fmt::format("rotary positions need an even head_dim, not {}", model.head_dim),
                      {"hidden", "heads"}});
  }
  if (model.activation != Activation::Silu) issues.push_back({"activation", "the llama family takes silu"});
  if (rope.scaling == RopeScaling::None && rope.factor != 1.0) {
    issues.push_back({"rope.factor", "has no effect with rope.scaling: none", {"rope.scaling"}});
  }
  if (rope.scaling == RopeScaling::Llama3 && rope.low_freq_factor >= rope.high_freq_factor) {
    issues.push_back({"rope.low_freq_factor",
                      fmt::format("{} is not below high_freq_factor {}", rope.low_freq_factor, rope.high_freq_factor),
                      {"rope.high_freq_factor", "rope.scaling"}});
  }
}

}  // namespace

ModelConfig family_defaults(ModelFamily family) {
  ModelConfig model;
  if (family == ModelFamily::Gpt2) return model;
  model.family = ModelFamily::Llama;
  model.positions = 2048;
  model.activation = Activation::Silu;
  model.bias = false;
  model.tied = false;
  model.scale_residual_init = false;
  return model;
}

std::vector<ConfigIssue> model_issues(const ModelConfig& given) {
  Issues issues;
  check_origin(given, issues);
  const std::pair<std::string, std::int64_t> sizes[] = {
      {"layers", given.layers}, {"hidden", given.hidden}, {"heads", given.heads}, {"positions", given.positions}};
  for (const auto& [name, value] : sizes) {
    if (value < 1) issues.push_back({name, fmt::format("{} is out of range (>= 1)", value)});
  }
  if (!issues.empty()) return issues;
  const ModelConfig model = filled(given);
  check_heads(given, model, issues);
  if (!issues.empty()) return issues;
  if (model.family == ModelFamily::Gpt2) check_gpt2(model, issues);
  if (model.family == ModelFamily::Llama) check_llama(model, issues);
  return issues;
}

ModelConfig resolve(ModelConfig given) {
  std::vector<std::string> lines;
  for (const ConfigIssue& issue : model_issues(given)) lines.push_back("model." + issue.key + ": " + issue.text);
  require(lines.empty(), ErrorKind::Config, "{}", join(lines, "\n"));
  return filled(std::move(given));
}

std::int64_t parameter_count(const ModelConfig& m) {
  require(m.vocabulary > 0 && m.head_dim > 0 && m.kv_heads > 0 && m.ffn > 0, ErrorKind::Internal,
          "parameter_count needs a resolved model with its vocabulary");
  const bool gpt2 = m.family == ModelFamily::Gpt2;
  const std::int64_t bias = m.bias ? 1 : 0;
  const std::int64_t norm = m.hidden * (gpt2 ? 1 + bias : 1);
  const std::int64_t qkv_size = m.query_size() + 2 * m.kv_size();
  const std::int64_t attention = m.hidden * qkv_size + (m.has_qkv_bias() ? qkv_size : 0) + m.query_size() * m.hidden +
                                 bias * m.hidden + (m.qk_norm ? 2 * m.head_dim : 0);
  const std::int64_t inputs = gpt2 ? 1 : 2;  // llama: gate and up
  const std::int64_t mlp = inputs * (m.hidden * m.ffn + bias * m.ffn) + m.ffn * m.hidden + bias * m.hidden;
  const std::int64_t embeddings = m.vocabulary * m.hidden * (m.tied ? 1 : 2) + (gpt2 ? m.positions * m.hidden : 0);
  return embeddings + m.layers * (2 * norm + attention + mlp) + norm;
}

}  // namespace plimsoll
