#include "runtime/model/huggingface.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/checkpoint/json_file.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface_keys.hpp"

namespace plimsoll {
namespace {

constexpr std::string_view kOwnKey = "plimsoll";

// Keys that do not change the function trained here: identity, token ids, generation, labels, other heads, caching.
constexpr std::array kHarmless{"_name_or_path",
                               "name_or_path",
                               "transformers_version",
                               "model_type",
                               "dtype",
                               "torch_dtype",
                               "use_cache",
                               "bos_token_id",
                               "eos_token_id",
                               "pad_token_id",
                               "sep_token_id",
                               "cls_token_id",
                               "unk_token_id",
                               "decoder_start_token_id",
                               "forced_bos_token_id",
                               "forced_eos_token_id",
                               "task_specific_params",
                               "tokenizer_class",
                               "prefix",
                               "keys_to_ignore_at_inference",
                               "id2label",
                               "label2id",
                               "num_labels",
                               "problem_type",
                               "finetuning_task",
                               "output_attentions",
                               "output_hidden_states",
                               "output_past",
                               "output_scores",
                               "return_dict",
                               "return_dict_in_generate",
                               "torchscript",
                               "use_bfloat16",
                               "chunk_size_feed_forward",
                               "is_decoder",
                               "summary_activation",
                               "summary_first_dropout",
                               "summary_proj_to_labels",
                               "summary_type",
                               "summary_use_proj",
                               "reorder_and_upcast_attn",
                               "pretraining_tp",
                               "gradient_checkpointing",
                               "_attn_implementation",
                               "attn_implementation",
                               "_attn_implementation_autoset",
                               "_attn_implementation_internal",
                               "max_length",
                               "min_length",
                               "do_sample",
                               "early_stopping",
                               "num_beams",
                               "num_beam_groups",
                               "diversity_penalty",
                               "temperature",
                               "top_k",
                               "top_p",
                               "typical_p",
                               "repetition_penalty",
                               "length_penalty",
                               "no_repeat_ngram_size",
                               "encoder_no_repeat_ngram_size",
                               "bad_words_ids",
                               "num_return_sequences",
                               "remove_invalid_values",
                               "exponential_decay_length_penalty",
                               "suppress_tokens",
                               "begin_suppress_tokens",
                               "classifier_dropout",
                               "resid_dropout",
                               "max_sequence_length",
                               "n_special",
                               "predict_special_tokens",
                               "tf_legacy_loss",
                               "is_llama_config",
                               "_flash_attn_2_enabled",
                               "unsloth_fixed",
                               "unsloth_version",
                               "transformers.js_config"};

struct NamedActivation {
  std::string_view name;
  Activation value;
};
// The first row of a value is the name that is written.
constexpr std::array kActivations{
    NamedActivation{"gelu_new", Activation::GeluTanh},   NamedActivation{"gelu_pytorch_tanh", Activation::GeluTanh},
    NamedActivation{"gelu_fast", Activation::GeluTanh},  NamedActivation{"gelu", Activation::GeluErf},
    NamedActivation{"gelu_python", Activation::GeluErf}, NamedActivation{"silu", Activation::Silu},
    NamedActivation{"swish", Activation::Silu}};

std::string_view activation_name(Activation value) {
  return std::find_if(kActivations.begin(), kActivations.end(), [&](const auto& a) { return a.value == value; })->name;
}

Activation read_activation(HuggingFaceKeys& keys, std::string_view key, Activation otherwise) {
  const std::string name = keys.text(key, std::string(activation_name(otherwise)));
  const auto* row =
      std::find_if(kActivations.begin(), kActivations.end(), [&](const auto& a) { return a.name == name; });
  if (row != kActivations.end()) return row->value;
  keys.refuse(key, "this activation is not implemented (gelu_new, gelu_pytorch_tanh, gelu, silu are)");
  return otherwise;
}

// Keys of any family that would change the computation.
void refuse_common(HuggingFaceKeys& keys) {
  keys.refuse_unless_empty("quantization_config", "quantized weights cannot be read");
  keys.refuse_unless_empty("compression_config", "compressed weights cannot be read");
  keys.refuse_unless_empty("rope_interleaved", "rotary positions turn halves of a head, not neighbours");
  keys.refuse_unless_empty("auto_map", "the model brings its own code");
  keys.refuse_unless_empty("pruned_heads", "pruned heads are not implemented");
  keys.refuse_unless_empty("add_cross_attention", "cross attention is not implemented");
  keys.refuse_unless_empty("is_encoder_decoder", "encoder-decoder models are not implemented");
  keys.refuse_unless_empty("tie_encoder_decoder", "encoder-decoder models are not implemented");
  if (!keys.flag("is_causal", true)) keys.refuse("is_causal", "only causal attention is implemented");
  if (const nlohmann::json* names = keys.find("architectures"); names != nullptr && names->is_array())
    for (const nlohmann::json& name : *names) {
      const std::string text = name.is_string() ? name.get<std::string>() : name.dump();
      if (!text.ends_with("ForCausalLM") && !text.ends_with("LMHeadModel") && !text.ends_with("Model"))
        keys.refuse("architectures", "only causal language models are implemented");
    }
}

std::int64_t count_of_either(HuggingFaceKeys& keys, std::string_view key, std::string_view alias) {
  if (!keys.contains(alias)) return keys.count(key);
  if (!keys.contains(key)) return keys.count(alias);
  const std::int64_t value = keys.count(key);
  if (keys.count(alias) != value) keys.refuse(alias, fmt::format("contradicts {}", key));
  return value;
}

void divide_heads(HuggingFaceKeys& keys, std::string_view heads_key, ModelConfig& model) {
  const nlohmann::json* own = keys.find(kOwnKey);
  const bool said = own != nullptr && own->is_object() && own->contains("head_dim");
  if (!said && model.hidden % model.heads != 0) keys.refuse(heads_key, "does not divide the hidden size");
  model.head_dim = std::max<std::int64_t>(1, model.hidden / model.heads);
}

ModelConfig read_gpt2(HuggingFaceKeys& keys) {
  ModelConfig model;
  model.family = ModelFamily::Gpt2;
  model.layers = count_of_either(keys, "n_layer", "num_hidden_layers");
  model.hidden = count_of_either(keys, "n_embd", "hidden_size");
  model.heads = count_of_either(keys, "n_head", "num_attention_heads");
  model.positions = count_of_either(keys, "n_positions", "max_position_embeddings");
  model.kv_heads = model.heads;
  divide_heads(keys, "n_head", model);
  model.ffn = keys.count("n_inner", 4 * model.hidden);
  model.vocabulary = keys.count("vocab_size");
  model.activation = read_activation(keys, "activation_function", Activation::GeluTanh);
  model.bias = true;
  model.tied = keys.flag("tie_word_embeddings", true);
  model.norm_eps = keys.number("layer_norm_epsilon", 1e-5);
  model.init_std = keys.number("initializer_range", 0.02);
  model.dropout = keys.number("resid_pdrop", 0.1);
  for (const std::string_view other : {"embd_pdrop", "attn_pdrop"})
    if (keys.number(other, 0.1) != model.dropout)
      keys.refuse(other,
                  fmt::format("differs from resid_pdrop ({}); there is one dropout rate for all", model.dropout));
  if (keys.count("n_ctx", model.positions) != model.positions) keys.refuse("n_ctx", "differs from n_positions");
  if (!keys.flag("scale_attn_weights", true)) keys.refuse("scale_attn_weights", "attention is always scaled");
  if (keys.flag("scale_attn_by_inverse_layer_idx", false))
    keys.refuse("scale_attn_by_inverse_layer_idx", "scaling by the layer's index is not implemented");
  return model;
}

// One of the two spellings of rotary positions: `key` names the object, `theta` applies where it has none of its own.
RopeConfig read_rope(HuggingFaceKeys& keys, std::string_view key, std::optional<double> theta,
                     std::vector<std::string>& issues) {
  RopeConfig rope;
  rope.theta = theta.value_or(rope.theta);
  const nlohmann::json* object = keys.find(key);
  if (object == nullptr || !object->is_object()) {
    if (object != nullptr) keys.refuse(key, "must be an object");
    return rope;
  }
  HuggingFaceKeys inner(*object, std::string(key) + ".", issues);
  const std::string type = inner.text("rope_type", inner.text("type", "default"));
  rope.theta = inner.number("rope_theta", theta);
  if (inner.number("partial_rotary_factor", 1.0) != 1.0)
    inner.refuse("partial_rotary_factor", "rotary positions apply to whole heads only");
  if (type == "linear") {
    rope.scaling = RopeScaling::Linear;
    rope.factor = inner.number("factor");
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::Llama3;
    rope.factor = inner.number("factor");
    rope.low_freq_factor = inner.number("low_freq_factor");
    rope.high_freq_factor = inner.number("high_freq_factor");
    rope.original_positions = inner.count("original_max_position_embeddings");
  } else if (type != "default") {
    inner.refuse(inner.contains("rope_type") ? "rope_type" : "type",
                 "is not implemented (default, linear and llama3 are)");
    return rope;
  }
  if (rope.factor <= 0.0) inner.refuse("factor", "must be positive");
  for (const std::string& name : inner.unknown())
    issues.push_back(fmt::format("{}: is not known for rotary positions of type {}", name, type));
  return rope;
}

RopeConfig read_rotary_positions(HuggingFaceKeys& keys, std::optional<double> default_theta,
                                 std::vector<std::string>& issues) {
  std::optional<double> theta = default_theta;
  const bool has_theta = keys.contains("rope_theta");
  if (has_theta) theta = keys.number("rope_theta");
  if (keys.number("partial_rotary_factor", 1.0) != 1.0)
    keys.refuse("partial_rotary_factor", "rotary positions apply to whole heads only");
  const bool newer = keys.contains("rope_parameters");
  const bool older = keys.contains("rope_scaling");
  if (!newer && !older && !theta) issues.emplace_back("rope_theta: is missing");
  const RopeConfig rope = read_rope(keys, newer ? "rope_parameters" : "rope_scaling", theta, issues);
  if (newer && older && read_rope(keys, "rope_scaling", rope.theta, issues) != rope)
    keys.refuse("rope_scaling", "contradicts rope_parameters");
  if (rope.theta <= 0.0) issues.push_back(fmt::format("rope_theta: {}: must be positive", rope.theta));
  if (newer && has_theta && theta != rope.theta) keys.refuse("rope_theta", "contradicts rope_parameters");
  return rope;
}

void check_windows(HuggingFaceKeys& keys, bool qwen, const ModelConfig& model) {
  const nlohmann::json* types = keys.find("layer_types");
  if (types != nullptr) {
    const bool full = types->is_array() && std::all_of(types->begin(), types->end(), [](const nlohmann::json& type) {
                        return type == "full_attention";
                      });
    if (!full) keys.refuse("layer_types", "only full_attention is implemented");
    if (full && static_cast<std::int64_t>(types->size()) != model.layers)
      keys.refuse("layer_types", "does not have one entry per layer");
  }
  const bool has_window = keys.contains("sliding_window");
  if (!qwen) {
    if (has_window) keys.refuse("sliding_window", "sliding windows are not implemented");
    return;
  }
  const std::int64_t first_windowed =
      keys.find("max_window_layers") != nullptr && *keys.find("max_window_layers") == nlohmann::json(0)
          ? 0
          : keys.count("max_window_layers", 28);
  const bool used = keys.flag("use_sliding_window", false) && has_window;
  if (used && types == nullptr && first_windowed < model.layers && keys.count("sliding_window") < model.positions)
    keys.refuse("sliding_window", "sliding windows are not implemented");
}

void read_biases(HuggingFaceKeys& keys, std::string_view type, ModelConfig& model) {
  model.bias = false;
  model.qkv_bias = type == "qwen2";
  if (type == "qwen2") return;
  const bool attention = keys.flag("attention_bias", false);
  const bool mlp = type == "llama" && keys.flag("mlp_bias", false);
  // A bias in all linears can be expressed, one in attention or MLP alone cannot.
  if (attention && mlp) model.bias = true;
  if (attention && !mlp) keys.refuse("attention_bias", "a bias in attention but not in the MLP is not implemented");
  if (mlp && !attention) keys.refuse("mlp_bias", "a bias in the MLP but not in attention is not implemented");
}

ModelConfig read_llama(HuggingFaceKeys& keys, std::string_view type, std::vector<std::string>& issues) {
  const bool qwen = type != "llama";
  ModelConfig model;
  model.family = ModelFamily::Llama;
  model.layers = keys.count("num_hidden_layers");
  model.hidden = keys.count("hidden_size");
  model.heads = keys.count("num_attention_heads");
  model.ffn = keys.count("intermediate_size");
  model.vocabulary = keys.count("vocab_size");
  model.positions = keys.count("max_position_embeddings", qwen ? 32768 : 2048);
  // Where the default depends on the model type or its version, the value must be there.
  model.kv_heads = qwen ? keys.count("num_key_value_heads") : keys.count("num_key_value_heads", model.heads);
  if (model.heads % model.kv_heads != 0) keys.refuse("num_key_value_heads", "does not divide num_attention_heads");
  if (type == "qwen3" || keys.contains("head_dim")) {
    model.head_dim = keys.count("head_dim");
  } else {
    divide_heads(keys, "num_attention_heads", model);
  }
  if (model.head_dim % 2 != 0)
    issues.push_back(fmt::format("head_dim: {}: rotary positions need an even size", model.head_dim));
  model.activation = read_activation(keys, "hidden_act", Activation::Silu);
  if (model.activation != Activation::Silu) keys.refuse("hidden_act", "only silu is implemented for gated MLPs");
  read_biases(keys, type, model);
  model.qk_norm = type == "qwen3";
  model.tied = keys.flag("tie_word_embeddings", false);
  model.norm_eps = keys.number("rms_norm_eps", 1e-6);
  model.init_std = keys.number("initializer_range", 0.02);
  model.dropout = 0.0;
  model.scale_residual_init = false;
  if (keys.number("attention_dropout", 0.0) != 0.0)
    keys.refuse("attention_dropout", "dropout in attention alone is not implemented");
  model.rope = read_rotary_positions(keys, qwen ? std::nullopt : std::optional(10000.0), issues);
  check_windows(keys, qwen, model);
  return model;
}

// What only the program's own files say, over what the Hugging Face keys mean.
void read_own(HuggingFaceKeys& keys, ModelConfig& model, std::vector<std::string>& issues) {
  const nlohmann::json* object = keys.find(kOwnKey);
  if (object == nullptr) return;
  if (!object->is_object()) return keys.refuse(kOwnKey, "must be an object");
  HuggingFaceKeys own(*object, std::string(kOwnKey) + ".", issues);
  model.bias = own.flag("bias", model.bias);
  model.qkv_bias = own.flag("qkv_bias", model.qkv_bias);
  model.qk_norm = own.flag("qk_norm", model.qk_norm);
  model.kv_heads = own.count("kv_heads", model.kv_heads);
  model.head_dim = own.count("head_dim", model.head_dim);
  model.dropout = own.number("dropout", model.dropout);
  model.activation = read_activation(own, "activation", model.activation);
  model.scale_residual_init = own.flag("scale_residual_init", model.scale_residual_init);
  for (const std::string& name : own.unknown()) issues.push_back(fmt::format("{}: is not known", name));
}

nlohmann::json own_fields(const ModelConfig& m) {
  return {{"bias", m.bias},
          {"qkv_bias", m.qkv_bias},
          {"qk_norm", m.qk_norm},
          {"kv_heads", m.kv_heads},
          {"head_dim", m.head_dim},
          {"dropout", m.dropout},
          {"activation", activation_name(m.activation)},
          {"scale_residual_init", m.scale_residual_init}};
}

std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::f64: return "float64";
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
    default: return "float32";
  }
}

nlohmann::json gpt2_keys(const ModelConfig& m) {
  nlohmann::json own = nlohmann::json::object();
  if (m.query_size() != m.hidden) own["head_dim"] = m.head_dim;
  return {{kOwnKey, own},
          {"model_type", "gpt2"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"n_layer", m.layers},
          {"n_embd", m.hidden},
          {"n_head", m.heads},
          {"n_inner", m.ffn},
          {"n_positions", m.positions},
          {"activation_function", activation_name(m.activation)},
          {"layer_norm_epsilon", m.norm_eps},
          {"resid_pdrop", m.dropout},
          {"embd_pdrop", m.dropout},
          {"attn_pdrop", m.dropout}};
}

nlohmann::json llama_keys(const ModelConfig& m) {
  const std::string type = m.qk_norm ? "qwen3" : m.qkv_bias && !m.bias ? "qwen2" : "llama";
  nlohmann::json rope{{"rope_type", "default"}, {"rope_theta", m.rope.theta}};
  if (m.rope.scaling != RopeScaling::None) rope["factor"] = m.rope.factor;
  if (m.rope.scaling == RopeScaling::Linear) rope["rope_type"] = "linear";
  if (m.rope.scaling == RopeScaling::Llama3) {
    rope["rope_type"] = "llama3";
    rope["low_freq_factor"] = m.rope.low_freq_factor;
    rope["high_freq_factor"] = m.rope.high_freq_factor;
    rope["original_max_position_embeddings"] = m.rope.original_positions != 0 ? m.rope.original_positions : m.positions;
  }
  nlohmann::json keys{{"model_type", type},
                      {"num_hidden_layers", m.layers},
                      {"hidden_size", m.hidden},
                      {"num_attention_heads", m.heads},
                      {"num_key_value_heads", m.kv_heads},
                      {"head_dim", m.head_dim},
                      {"intermediate_size", m.ffn},
                      {"max_position_embeddings", m.positions},
                      {"hidden_act", "silu"},
                      {"rms_norm_eps", m.norm_eps},
                      {"attention_dropout", 0.0},
                      {"rope_parameters", rope},
                      {kOwnKey, nlohmann::json::object()}};
  keys["architectures"] = {type == "llama"   ? "LlamaForCausalLM"
                           : type == "qwen2" ? "Qwen2ForCausalLM"
                                             : "Qwen3ForCausalLM"};
  if (type == "llama") keys["attention_bias"] = keys["mlp_bias"] = m.bias;
  return keys;
}

}  // namespace

ModelConfig model_from_huggingface(const nlohmann::json& config, std::string_view name) {
  require(config.is_object(), ErrorKind::Config, "{}: is not a JSON object", name);
  std::vector<std::string> issues;
  HuggingFaceKeys keys(config, "", issues);
  const std::string type = keys.text("model_type", "");
  const bool llama = type == "llama" || type == "qwen2" || type == "qwen3";
  require(issues.empty() && (llama || type == "gpt2"), ErrorKind::Config,
          "{}: model_type '{:.80}' is not supported (gpt2, llama, qwen2 and qwen3 are)", name, type);
  refuse_common(keys);
  ModelConfig model = llama ? read_llama(keys, type, issues) : read_gpt2(keys);
  read_own(keys, model, issues);
  if (!(model.norm_eps > 0.0)) issues.emplace_back("the epsilon of the norms must be positive");
  if (!(model.dropout >= 0.0 && model.dropout < 1.0)) issues.emplace_back("dropout must be in [0, 1)");
  for (const char* harmless : kHarmless) keys.find(harmless);
  for (const std::string& key : keys.unknown())
    issues.push_back(fmt::format("{:.80}: is not known for model_type {} and may change what it computes", key, type));
  require(issues.empty(), ErrorKind::Config, "{}: cannot be honoured: {:.4000}", name, join(issues, "; "));
  return model;
}

ModelConfig model_from_huggingface_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  return model_from_huggingface(read_json_file(path), path.string());
}

std::optional<std::int64_t> padding_id(const nlohmann::json& config) {
  const auto id = config.find("pad_token_id");
  if (config.at("model_type") == "gpt2" || id == config.end() || !id->is_number_integer()) return std::nullopt;
  const auto vocabulary = config.at("vocab_size").get<std::int64_t>();
  const std::int64_t row = id->get<std::int64_t>() < 0 ? vocabulary + id->get<std::int64_t>() : id->get<std::int64_t>();
  return row >= 0 && row < vocabulary ? std::optional(row) : std::nullopt;
}

nlohmann::json model_to_huggingface(const ModelConfig& model, DType dtype) {
  require(model.kv_heads > 0 && model.head_dim > 0 && model.ffn > 0 && model.vocabulary > 0, ErrorKind::Internal,
          "a model must be resolved before its config.json is written");
  nlohmann::json config = model.family == ModelFamily::Gpt2 ? gpt2_keys(model) : llama_keys(model);
  config["vocab_size"] = model.vocabulary;
  config["tie_word_embeddings"] = model.tied;
  config["initializer_range"] = model.init_std;
  config["dtype"] = torch_name(dtype);
  // Whatever would come back differently is said in our own words.
  const nlohmann::json meant = own_fields(model);
  const nlohmann::json understood = own_fields(model_from_huggingface(config, "config.json"));
  nlohmann::json& own = config[std::string(kOwnKey)];
  for (const auto& [key, value] : meant.items())
    if (understood.at(key) != value) own[key] = value;
  if (own.empty()) config.erase(std::string(kOwnKey));
  return config;
}

std::optional<DType> huggingface_dtype(const nlohmann::json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16})
      if (config.contains(key) && config[key] == torch_name(dtype)) return dtype;
  }
  return std::nullopt;
}

std::vector<std::string> huggingface_gaps(const nlohmann::json& config) {
  std::vector<std::string> names;
  const auto own = config.find(kOwnKey);
  if (own == config.end()) return names;
  // Dropout and initialisation do not change what the trained weights mean.
  for (const auto& [key, value] : own->items())
    if (key != "dropout" && key != "scale_residual_init") names.push_back(key);
  return names;
}

}  // namespace plimsoll
