#include "launch/config_keys.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace plimsoll {
namespace {

constexpr double kMostSteps = 1e12;
constexpr double kMostSequences = static_cast<double>(kMostBatch);

constexpr std::array kPrecisions{named(DType::f32, "fp32"), named(DType::bf16, "bf16"), named(DType::f16, "fp16"),
                                 named(DType::f64, "fp64")};

nlohmann::ordered_json json_of(const ConfigNode& node) {
  using Json = nlohmann::ordered_json;
  switch (node.kind) {
    case ConfigNode::Kind::Null: return nullptr;
    case ConfigNode::Kind::Scalar: {
      const Json value = node.quoted ? Json() : Json::parse(node.text, nullptr, false);
      return value.is_number() || value.is_boolean() ? value : Json(node.text);
    }
    case ConfigNode::Kind::List: {
      Json list = Json::array();
      for (const ConfigNode& item : node.items) list.push_back(json_of(item));
      return list;
    }
    case ConfigNode::Kind::Map: break;
  }
  Json map = Json::object();
  for (const ConfigEntry& entry : node.entries) map[entry.key] = json_of(entry.value);
  return map;
}

Key<Config> precision_key() {
  return {"precision",
          enum_type(kPrecisions),
          "",
          "",
          "of activations and matrix products; fp64 is for tests on the CPU",
          [](Config& config, const ConfigNode& node, const KeyScope& scope) {
            int value = 0;
            if (read_enum(node, kPrecisions, scope, value)) config.precision = static_cast<DType>(value);
          },
          [](const Config& config) {
            return ConfigNode::scalar(std::string(enum_text(kPrecisions, static_cast<int>(config.precision))));
          }};
}

KeyTable<TrainConfig> train_keys() {
  using C = TrainConfig;
  return {
      .keys = {
          key("steps", &C::steps, between(1, kMostSteps), "steps", "length of the run"),
          key("global_batch", &C::global_batch, between(1, kMostSequences), "sequences", "over all ranks per step"),
          key("micro_batch", &C::micro_batch, between(1, kMostSequences), "sequences",
              "per rank per forward; auto: chosen by the plan. It decides the order of sums, as memory.logits does"),
          key("eval_batches", &C::eval_batches, between(1, kMostSequences), "1",
              "global batches per evaluation in train; auto: all of the validation data, as eval does"),
      }};
}

KeyTable<RunConfig> run_keys() {
  using C = RunConfig;
  return {.keys = {
              key("dir", &C::dir, "where the run's files go; a run that has a checkpoint there is continued"),
              key("seed", &C::seed, {}, "1", "of initial weights, sample order and dropout"),
              key("log_every", &C::log_every, between(0, kMostSteps), "steps",
                  "between printed and recorded lines; 0: nothing is printed, every step is recorded"),
              key("eval_every", &C::eval_every, between(0, kMostSteps), "steps",
                  "between evaluations; 0: only after the last step"),
              key("save_every", &C::save_every, between(0, kMostSteps), "steps",
                  "between checkpoints; 0: only after the last step"),
              key("keep", &C::keep, between(0, kMostSteps), "1", "newest checkpoints kept; 0: all"),
              key_or("off", std::string(), "trace", &C::trace, {}, "",
                     "file for a Chrome trace of the steps, node by node; with device: cuda nodes are then launched "
                     "one by one (no cuda.graphs), which takes longer and changes no bit"),
              key("poison", &C::poison, "debugging: dead memory is filled with NaN"),
              key("threads", &C::threads, between(1, static_cast<double>(kMostThreads)), "threads",
                  "for computing, per rank; auto: cores / ranks of this host"),
          }};
}

}  // namespace

KeyTable<Config> config_keys() {
  using C = Config;
  return {.keys = {
              section("model", &C::model, model_keys()),
              section("data", &C::data, data_keys()),
              section("train", &C::train, train_keys()),
              section("optimizer", &C::optimizer, optimizer_keys()),
              section("schedule", &C::schedule, schedule_keys()),
              section("parallel", &C::parallel, parallel_keys()),
              section("memory", &C::memory, memory_keys()),
              section("plan", &C::plan, plan_keys()),
              section("comm", &C::comm, comm_keys()),
              precision_key(),
              key("fp8", &C::fp8,
                  "with precision: bf16, linears: in training the products of the layers' linears have fp8 operands, "
                  "e4m3 forward and e5m2 for gradients, with scales per tensor from the maximums of the last 16 steps; "
                  "embedding, head, evaluation and generation stay in bf16. device: cuda needs a GPU of compute "
                  "capability 8.9, device: cpu emulates it"),
              key("device", &C::device, "what computes"),
              section("cuda", &C::cuda, cuda_keys()),
              section("run", &C::run, run_keys()),
          }};
}

std::vector<KeyInfo> config_key_infos() {
  Config llama;
  llama.model = family_defaults(ModelFamily::Llama);
  std::vector<KeyInfo> rows = config_keys().describe(Config{}, "");
  const std::vector<KeyInfo> llama_rows = config_keys().describe(llama, "");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].name == "model.family" || rows[i].default_text == llama_rows[i].default_text) continue;
    rows[i].default_text = fmt::format("gpt2: {}, llama: {}", rows[i].default_text, llama_rows[i].default_text);
  }
  return rows;
}

std::string config_json(const Config& config) { return json_of(config_keys().write(config)).dump(2) + "\n"; }

std::string describe_keys(bool json) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  std::string text;
  for (const KeyInfo& row : config_key_infos()) {
    array.push_back({{"key", row.name},
                     {"type", row.type},
                     {"default", row.default_text},
                     {"unit", row.unit},
                     {"range", row.range},
                     {"meaning", row.meaning}});
    const std::string unit = row.unit.empty() || row.unit == "1" ? "" : "; in " + row.unit;
    const std::string range = row.range.empty() ? "" : "; " + row.range;
    text += fmt::format("{}: {}\n    {}\n    {}{}{}\n", row.name, row.default_text, row.meaning, row.type, range, unit);
  }
  return json ? array.dump(2) + "\n" : text;
}

}  // namespace plimsoll
