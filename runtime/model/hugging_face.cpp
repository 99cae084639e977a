#include "runtime/model/hugging_face.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

using Json = nlohmann::json;

// One config.json with typed access; every fault names the file and the key.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {
    std::ifstream stream(file_);
    require(stream.good(), ErrorKind::MissingInput, "{}: cannot be opened", file_);
    json_ = Json::parse(stream, nullptr, false);
    require(json_.is_object(), ErrorKind::BadData, "{}: not a JSON object", file_);
  }
  Reader(std::string file, Json json) : file_(std::move(file)), json_(std::move(json)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  template <class T>
  T get(const char* key) const {
    require(has(key), ErrorKind::BadData, "{}: '{}' is missing", file_, key);
    return value<T>(key);
  }
  template <class T>
  T get_or(const char* key, T otherwise) const {
    return has(key) ? value<T>(key) : otherwise;
  }
  Reader inner(const char* key) const { return {file_, json_[key]}; }
  const std::string& file() const { return file_; }

 private:
  template <class T>
  T value(const char* key) const {
    const Json& v = json_[key];
    const bool fits = std::is_same_v<T, bool>     ? v.is_boolean()
                      : std::is_integral_v<T>     ? v.is_number_integer()
                      : std::is_same_v<T, double> ? v.is_number()
                                                  : v.is_string();
    require(fits, ErrorKind::BadData, "{}: '{}' has an unexpected type: {}", file_, key, v.dump());
    return v.get<T>();
  }
  std::string file_;
  Json json_;
};

Activation read_activation(const Reader& in, const char* key, const std::string& otherwise) {
  const auto name = in.get_or<std::string>(key, otherwise);
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::GeluTanh;
  if (name == "gelu") return Activation::GeluErf;
  if (name == "silu" || name == "swish") return Activation::Silu;
  fail(ErrorKind::Config, "{}: the activation '{}' is not known", in.file(), name);
}

ModelConfig read_gpt2(const Reader& in) {
  ModelConfig model = family_defaults(ModelFamily::Gpt2);
  model.layers = in.get<std::int64_t>("n_layer");
  model.hidden = in.get<std::int64_t>("n_embd");
  model.heads = in.get<std::int64_t>("n_head");
  model.ffn = in.get_or<std::int64_t>("n_inner", 0);
  model.vocabulary = in.get<std::int64_t>("vocab_size");
  model.positions = in.get<std::int64_t>("n_positions");
  model.activation = read_activation(in, "activation_function", "gelu_new");
  model.norm_eps = in.get_or("layer_norm_epsilon", 1e-5);
  model.tied = in.get_or("tie_word_embeddings", true);
  const bool scaled = in.get_or("scale_attn_weights", true) && !in.get_or("scale_attn_by_inverse_layer_idx", false);
  require(scaled, ErrorKind::Config, "{}: attention that is scaled in another way than 1/sqrt(head_dim)", in.file());
  return model;
}

// transformers 4 writes rope_theta and rope_scaling; transformers 5 writes both into rope_parameters.
RopeConfig read_rope(const Reader& in) {
  const char* key = in.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  RopeConfig rope;
  rope.theta = in.get_or("rope_theta", 10000.0);
  if (!in.has(key)) return rope;
  const Reader scaling = in.inner(key);
  rope.theta = scaling.get_or("rope_theta", rope.theta);
  const auto type = scaling.get_or<std::string>("rope_type", scaling.get_or<std::string>("type", "default"));
  if (type == "default") return rope;
  require(type == "linear" || type == "llama3", ErrorKind::Config, "{}: the rope_type '{}' is not known", in.file(),
          type);
  rope.scaling = type == "linear" ? RopeScaling::Linear : RopeScaling::Llama3;
  rope.factor = scaling.get<double>("factor");
  if (rope.scaling == RopeScaling::Linear) return rope;
  rope.low_freq_factor = scaling.get<double>("low_freq_factor");
  rope.high_freq_factor = scaling.get<double>("high_freq_factor");
  rope.original_positions = scaling.get<std::int64_t>("original_max_position_embeddings");
  return rope;
}

ModelConfig read_llama(const Reader& in, const std::string& type) {
  ModelConfig model = family_defaults(ModelFamily::Llama);
  model.layers = in.get<std::int64_t>("num_hidden_layers");
  model.hidden = in.get<std::int64_t>("hidden_size");
  model.heads = in.get<std::int64_t>("num_attention_heads");
  model.kv_heads = in.get_or<std::int64_t>("num_key_value_heads", 0);
  model.head_dim = in.get_or<std::int64_t>("head_dim", type == "qwen3" ? 128 : 0);
  model.ffn = in.get<std::int64_t>("intermediate_size");
  model.vocabulary = in.get<std::int64_t>("vocab_size");
  model.positions = in.get<std::int64_t>("max_position_embeddings");
  model.activation = read_activation(in, "hidden_act", "silu");
  model.norm_eps = in.get_or("rms_norm_eps", 1e-6);
  model.tied = in.get_or("tie_word_embeddings", false);
  model.qkv_bias = type == "qwen2";
  model.qk_norm = type == "qwen3";
  model.rope = read_rope(in);
  const bool attention_bias = in.get_or("attention_bias", false);
  model.bias = in.get_or("mlp_bias", false);
  require(attention_bias == model.bias, ErrorKind::Config, "{}: attention_bias and mlp_bias differ", in.file());
  require(!in.get_or("use_sliding_window", false), ErrorKind::Config, "{}: sliding-window attention", in.file());
  return model;
}

}  // namespace

ModelConfig read_hugging_face_config(const std::string& folder) {
  const Reader in(folder + "/config.json");
  const auto type = in.get<std::string>("model_type");
  const bool llama = type == "llama" || type == "qwen2" || type == "qwen3";
  require(llama || type == "gpt2", ErrorKind::Config,
          "{}: the model_type '{}' is not known (gpt2, llama, qwen2, qwen3)", in.file(), type);
  ModelConfig model = llama ? read_llama(in, type) : read_gpt2(in);
  model.from = folder;
  return model;
}

}  // namespace plimsoll
