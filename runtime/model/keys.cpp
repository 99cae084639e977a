// The keys of the model section.

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/keys.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/config.hpp"
#include "runtime/model/huggingface.hpp"
#include "runtime/model/presets.hpp"

namespace plimsoll {
namespace {

// Upper bounds keep every product of sizes far inside 64 bits.
constexpr double kMostLayers = 10000;
constexpr double kMostWidth = 1 << 20;
constexpr double kMostTokens = 1 << 30;

// The text of a key that names something; null when the key is absent, `none` or not a text.
const std::string* named_by(const ConfigNode& node, std::string_view key) {
  const ConfigEntry* entry = node.entry(key);
  const bool names = entry != nullptr && entry->value.kind == ConfigNode::Kind::Scalar && !entry->value.is_word("none");
  return names ? &entry->value.text : nullptr;
}

void lay_preset(ModelConfig& model, const std::string& name, const ConfigNode& at, const KeyScope& scope) {
  if (auto found = find_model_preset(name)) {
    model = *found;
    return;
  }
  const std::vector<std::string> names = model_preset_names();
  const auto near = nearest_name(name, names);
  scope.fault(at, fmt::format("{} is unknown ({})", quote_text(name),
                              near ? fmt::format("did you mean '{}'?", *near) : "known: " + join(names, ", ")));
}

// What a family, a preset or a folder says comes first; explicit keys are laid over it.
void lay_base(ModelConfig& model, const ConfigNode& node, const KeyScope& scope) {
  const std::string* family = named_by(node, "family");
  bool named = false;
  for (const EnumName& n : enum_names(ModelFamily{})) {
    if (family == nullptr || *family != n.name) continue;
    model = family_defaults(static_cast<ModelFamily>(n.value));
    named = true;
  }
  const std::string* preset = named_by(node, "preset");
  const std::string* from = named_by(node, "from");
  if (preset != nullptr) {
    lay_preset(model, *preset, node.entry("preset")->value, scope.child("preset"));
  } else if (from != nullptr) {
    const ConfigNode& at = node.entry("from")->value;
    try {
      model = model_from_huggingface_folder(*from);
      if (named && *family != to_text(model.family))
        scope.child("family").fault(node.entry("family")->value,
                                    fmt::format("{} is not of the family {}", *from, quote_text(*family)));
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::MissingInput) throw;
      scope.child("from").fault(at, error.what());
    }
  }
}

KeyTable<RopeConfig> rope_keys() {
  using C = RopeConfig;
  return {.keys = {
              key("theta", &C::theta, above(0), "1", "base of the rotary frequencies"),
              key("scaling", &C::scaling, "how frequencies are stretched for longer contexts"),
              key("factor", &C::factor, at_least(1), "1", "linear, llama3: the stretch"),
              key("low_freq_factor", &C::low_freq_factor, above(0), "1",
                  "llama3: below original_positions / this, stretch fully"),
              key("high_freq_factor", &C::high_freq_factor, above(0), "1",
                  "llama3: above original_positions / this, do not stretch"),
              key_or("auto", std::int64_t{0}, "original_positions", &C::original_positions, between(1, kMostTokens),
                     "tokens", "llama3: the context the model was first trained for; auto: model.positions"),
          }};
}

}  // namespace

KeyTable<ModelConfig> model_keys() {
  using C = ModelConfig;
  const std::string none;
  const std::int64_t automatic = 0;
  return {
      .keys =
          {
              key_or("none", none, "preset", &C::preset, {}, "",
                     "a published model; other keys override its values: " + join(model_preset_names(), ", ")),
              key_or("none", none, "from", &C::from, {}, "", "a Hugging Face folder with config.json"),
              key("family", &C::family, "gpt2: LayerNorm and learned positions; llama: RMSNorm, RoPE, gated MLP"),
              key("layers", &C::layers, between(1, kMostLayers), "1", "transformer blocks"),
              key("hidden", &C::hidden, between(1, kMostWidth), "elements", "width of the residual stream"),
              key("heads", &C::heads, between(1, kMostWidth), "1", "attention heads"),
              key_or("auto", automatic, "kv_heads", &C::kv_heads, between(1, kMostWidth), "1",
                     "heads of key and value; auto: heads"),
              key_or("auto", automatic, "head_dim", &C::head_dim, between(1, kMostWidth), "elements",
                     "width of a head; auto: hidden / heads"),
              key_or("auto", automatic, "ffn", &C::ffn, between(1, kMostWidth), "elements",
                     "width of the MLP; auto: 4 hidden (gpt2), 8/3 hidden rounded up to 256 (llama)"),
              key_or("auto", automatic, "vocabulary", &C::vocabulary, between(1, kMostTokens), "tokens",
                     "token ids; auto: those of the data's tokenizer"),
              key("positions", &C::positions, between(1, kMostTokens), "tokens", "longest context"),
              key("activation", &C::activation, "of the MLP; gpt2: gelu_tanh or gelu_erf, llama: silu"),
              key("bias", &C::bias, "linears (gpt2: norms too) have a bias"),
              key("qkv_bias", &C::qkv_bias, "llama: query, key and value have a bias (Qwen 2)"),
              key("qk_norm", &C::qk_norm, "llama: RMSNorm of queries and keys (Qwen 3)"),
              key("tied", &C::tied, "the head shares the token embedding"),
              key("norm_eps", &C::norm_eps, above(0), "1", "added to the variance in norms"),
              key("dropout", &C::dropout, from_below(0, 1), "1", "probability that an element is dropped in training"),
              key("init_std", &C::init_std, above(0), "1", "standard deviation of initial weights"),
              key("scale_residual_init", &C::scale_residual_init,
                  "projections into the residual stream start smaller, by sqrt(2 layers); llama: false unless given"),
              section("rope", &C::rope, rope_keys()),
          },
      .prepare = lay_base};
}

}  // namespace plimsoll
