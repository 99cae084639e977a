#include "tests/tools/golden_folder.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/checkpoint/json_file.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr std::int64_t kMaxGoldenBytes = std::int64_t{16} << 20;
constexpr double kMostSize = 1 << 24;  // keeps products of B, T and steps far inside 64 bits

// Typed values of golden.json; complaints name the file and the key.
class Keys {
 public:
  Keys(const json& object, std::string prefix, std::string file)
      : object_(object), prefix_(std::move(prefix)), file_(std::move(file)) {}

  const json& at(const char* key) const {
    const auto found = object_.find(key);
    require(found != object_.end(), ErrorKind::BadData, "{}: {}{}: is missing", file_, prefix_, key);
    return *found;
  }
  Keys section(const char* key) const {
    require(at(key).is_object(), ErrorKind::BadData, "{}: {}{}: must be an object", file_, prefix_, key);
    return {at(key), prefix_ + key + ".", file_};
  }
  std::int64_t size(const char* key) const {
    const json& value = at(key);
    require(value.is_number_integer() && value >= 1 && value <= kMostSize, ErrorKind::BadData,
            "{}: {}{}: {} is not a whole number from 1 to {}", file_, prefix_, key, shown(value),
            static_cast<std::int64_t>(kMostSize));
    return value;
  }
  double number(const char* key, double low) const { return number_of(at(key), key, low); }
  std::vector<double> numbers(const char* key, double low) const {
    const json& value = at(key);
    require(value.is_array(), ErrorKind::BadData, "{}: {}{}: must be a list of numbers", file_, prefix_, key);
    std::vector<double> all;
    for (const json& item : value) all.push_back(number_of(item, fmt::format("{}[{}]", key, all.size()), low));
    return all;
  }
  // The key, when it is there, must have one of these values.
  void only(const char* key, const std::vector<json>& values, std::string_view reason) const {
    const auto found = object_.find(key);
    const bool good = found == object_.end() || std::find(values.begin(), values.end(), *found) != values.end();
    if (!good) refuse(key, *found, reason);
  }
  [[noreturn]] void refuse(std::string_view key, const json& value, std::string_view reason) const {
    fail(ErrorKind::Config, "{}: {}{}: {} is not supported: {}", file_, prefix_, key, shown(value), reason);
  }
  std::vector<std::string> others(std::span<const std::string_view> known) const {
    std::vector<std::string> names;
    for (const auto& [key, value] : object_.items()) {
      const bool off = value.is_null() || value == false || value == 0 || value.empty();
      if (!off && std::find(known.begin(), known.end(), key) == known.end()) names.push_back(key);
    }
    return names;
  }
  const json& object() const { return object_; }

 private:
  static std::string shown(const json& value) {
    return fmt::format("{:.100}", value.dump(-1, ' ', false, json::error_handler_t::replace));
  }
  double number_of(const json& value, std::string_view key, double low) const {
    const bool good = value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= low;
    require(good, ErrorKind::BadData, "{}: {}{}: {} is not a number{}", file_, prefix_, key, shown(value),
            low > std::numeric_limits<double>::lowest() ? fmt::format(" from {}", low) : "");
    return value;
  }
  const json& object_;
  std::string prefix_, file_;
};

constexpr double kAny = std::numeric_limits<double>::lowest();
constexpr std::array<std::string_view, 14> kKnown{
    "model", "model_type", "transformers", "torch", "attention", "dtype",      "threads",
    "B",     "T",          "loss",         "curve", "noise",     "parameters", "safetensors"};
constexpr std::array<std::string_view, 21> kKnownOfCurve{
    "optimizer", "beta1",    "beta2",   "eps",        "weight_decay", "weight_decay_on",       "grad_clip",
    "steps",     "lr",       "min_lr",  "schedule",   "warmup_steps", "lr_per_step",           "loss",
    "amsgrad",   "maximize", "foreach", "capturable", "fused",        "grad_norm_before_clip", "differentiable"};

GoldenCurve read_curve(const Keys& keys) {
  GoldenCurve curve;
  std::string name = keys.at("optimizer").is_string() ? keys.at("optimizer").get<std::string>() : "";
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name != "adamw") keys.refuse("optimizer", keys.at("optimizer"), "only AdamW is");
  keys.only("amsgrad", {false}, "the largest second moment is not kept");
  keys.only("maximize", {false}, "the loss is minimised");
  for (const std::string& other : keys.others(kKnownOfCurve))
    keys.refuse(other, keys.object()[other], "what it means for the curve is not known");
  const double below_one = std::nextafter(1.0, 0.0);
  curve.optimizer.betas = {keys.number("beta1", 0), keys.number("beta2", 0)};
  for (std::size_t i = 0; i < 2; ++i) {
    const char* key = i == 0 ? "beta1" : "beta2";
    if (curve.optimizer.betas[i] > below_one) keys.refuse(key, keys.at(key), "it must be below 1");
  }
  curve.optimizer.eps = keys.number("eps", 0);
  curve.optimizer.weight_decay = keys.number("weight_decay", 0);
  if (curve.optimizer.weight_decay > 0)
    keys.only("weight_decay_on", {"parameters with two or more dims, embeddings included"},
              "decay is of 'parameters with two or more dims, embeddings included'");
  curve.optimizer.clip = keys.at("grad_clip").is_null() ? 0 : keys.number("grad_clip", 0);
  curve.lr = keys.numbers("lr_per_step", 0);
  curve.loss = keys.numbers("loss", kAny);
  curve.grad_norm = keys.numbers("grad_norm_before_clip", 0);
  return curve;
}

// The model as the reference ran it, without dropout, whatever its config.json says for training.
ModelConfig read_model(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  json config = read_json_file(path);
  if (config.is_object()) {
    if (config.value("model_type", json()) == "gpt2")
      for (const char* key : {"resid_pdrop", "embd_pdrop", "attn_pdrop"}) config[key] = 0.0;
    if (config.contains("attention_dropout")) config["attention_dropout"] = 0.0;
  }
  ModelConfig model = model_from_huggingface(config, path.string());
  model.dropout = 0;
  return model;
}

std::vector<std::int32_t> read_tokens(const SafetensorsFile& file, const std::string& name, const Shape& shape,
                                      std::int64_t vocabulary, bool ignorable) {
  const TensorSpec spec = file.spec(name);
  require(spec.dtype == DType::i32, ErrorKind::BadData, "{}: tensor '{}': is {}, must be i32", file.path().string(),
          name, dtype_name(spec.dtype));
  require(spec.shape == shape, ErrorKind::BadData, "{}: tensor '{}': is {}, by golden.json it must be {}",
          file.path().string(), name, to_string(spec), to_string({shape, DType::i32}));
  std::vector<std::int32_t> all(static_cast<std::size_t>(shape.elements()));
  file.read(name, all.data(), static_cast<std::int64_t>(all.size() * sizeof(std::int32_t)));
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (ignorable && all[i] == -100) all[i] = -1;  // PyTorch's ignore_index
    require(all[i] >= (ignorable ? -1 : 0) && all[i] < vocabulary, ErrorKind::BadData,
            "{}: tensor '{}': element {} is {}, outside of the vocabulary of {}", file.path().string(), name, i, all[i],
            vocabulary);
  }
  return all;
}

// The reference has no gradient of the padding row from where it is looked up; ours has.
void refuse_padding(const GoldenFolder& g) {
  const std::string file = (g.path / "config.json").string();
  const std::optional<std::int64_t> id = padding_id(read_json_file(file));
  if (!id) return;
  bool looked_up = std::find(g.tokens.begin(), g.tokens.end(), *id) != g.tokens.end();
  const auto row = static_cast<std::size_t>(g.sequence + 1);
  for (std::size_t i = 0; i < g.curve_tokens.size(); ++i)
    looked_up = looked_up || (i % row + 1 != row && g.curve_tokens[i] == *id);  // the last of a row is a target only
  require(!looked_up, ErrorKind::Config,
          "{}: pad_token_id: {} is not supported: it is among the tokens of golden.safetensors, and transformers does "
          "not train that row where it is looked up",
          file, *id);
}

}  // namespace

std::vector<float> read_shaped_floats(const SafetensorsFile& file, const std::string& name, const Shape& shape) {
  const TensorSpec spec = file.spec(name);
  require(spec.shape == shape && is_floating(spec.dtype), ErrorKind::BadData, "{}: tensor '{}': is {}, must be {}",
          file.path().string(), name, to_string(spec), to_string({shape, DType::f32}));
  return file.read_floats(name);
}

GoldenFolder read_golden_folder(const std::filesystem::path& path, bool warn) {
  GoldenFolder g;
  g.path = path;
  const std::string file = (path / "golden.json").string();
  const json object = read_json_file(file, Links::Follow, kMaxGoldenBytes);
  require(object.is_object(), ErrorKind::BadData, "{}: must be a JSON object", file);
  const Keys keys(object, "", file);
  keys.only("dtype", {"float32"}, "results are compared in float32");
  keys.only("dropout", {0, 0.0, nullptr, false}, "references have no dropout");
  keys.only("label_smoothing", {0, 0.0, nullptr}, "the loss is plain cross-entropy");
  if (const auto others = keys.others(kKnown); warn && !others.empty())
    std::fprintf(stderr, "%s: ignored, because what they mean is not known: %s\n", file.c_str(),
                 join(others, ", ").c_str());
  g.batch = keys.size("B");
  g.sequence = keys.size("T");
  g.loss = keys.number("loss", kAny);
  const Keys curve = keys.section("curve");
  const std::int64_t steps = curve.size("steps");
  g.curve = read_curve(curve);
  const auto fits = [&](const char* key, std::size_t size) {
    require(static_cast<std::int64_t>(size) == steps, ErrorKind::BadData,
            "{}: curve.{}: has {} values, curve.steps is {}", file, key, size, steps);
  };
  fits("lr_per_step", g.curve.lr.size());
  fits("loss", g.curve.loss.size());
  fits("grad_norm_before_clip", g.curve.grad_norm.size());
  g.model = read_model(path);
  require(g.model.family != ModelFamily::Gpt2 || g.sequence <= g.model.positions, ErrorKind::BadData,
          "{}: T: {} is above the model's {} positions", file, g.sequence, g.model.positions);
  const SafetensorsFile data = SafetensorsFile::open(path / "golden.safetensors");
  const std::int64_t vocabulary = g.model.vocabulary;
  g.tokens = read_tokens(data, "tokens", {g.batch, g.sequence}, vocabulary, false);
  g.targets = read_tokens(data, "targets", {g.batch, g.sequence}, vocabulary, true);
  g.valid_targets = std::count_if(g.targets.begin(), g.targets.end(), [](std::int32_t t) { return t >= 0; });
  require(g.valid_targets > 0, ErrorKind::BadData, "{}: tensor 'targets': all are ignored", data.path().string());
  g.curve_tokens = read_tokens(data, "curve_tokens", {steps, g.batch, g.sequence + 1}, vocabulary, false);
  refuse_padding(g);
  g.logits = read_shaped_floats(data, "logits", {g.batch, g.sequence, vocabulary});
  return g;
}

}  // namespace plimsoll
