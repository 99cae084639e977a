#include "launch/plan_question.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "launch/config_keys.hpp"
#include "runtime/core/config_node.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

// Whatever is not here may change a plan. Where weights come from is in what they make of the other keys; whose times
// count is measured, and a plan that is followed has what followed from them.
constexpr std::array kNoPart{"model.preset", "model.from",      "model.init_std", "model.scale_residual_init",
                             "data.train",   "data.dtype",      "train.steps",    "train.eval_batches",
                             "optimizer.lr", "optimizer.betas", "optimizer.eps",  "optimizer.weight_decay",
                             "plan.profile", "comm.transport",  "comm.deadline"};

// A plan says nothing of a key that has this value: it did not before there was such a key.
constexpr std::pair<std::string_view, std::string_view> kUnsaid{"fp8", "off"};

bool is_asked(const std::string& key) {
  if (key == "run.threads") return true;
  for (const char* section : {"run.", "schedule.", "optimizer.loss_scale."})
    if (key.starts_with(section)) return false;
  return std::find(kNoPart.begin(), kNoPart.end(), key) == kNoPart.end();
}

// In the order of the configuration.
Values asked_values(const Config& config) {
  Values asked;
  for (auto& [key, text] : config_keys().write(config).values()) {
    if (key == "optimizer.momentum") text = config.optimizer.momentum > 0 ? "above 0" : "0";
    if (key == "optimizer.clip") text = config.optimizer.clip > 0 ? "above 0" : "0";
    if (key == "data.validation")
      text = config.data.validation > 0 || !config.data.validation_files.empty() ? "some" : "none";
    if (key == "comm.cluster" && !config.comm.cluster.empty())
      text = std::filesystem::absolute(config.comm.cluster).lexically_normal().string();
    if (is_asked(key)) asked.emplace_back(key, text);
  }
  return asked;
}

// Of the key, or of the section that is a word.
std::string value_of(const nlohmann::json& asked, std::string key) {
  if (key == kUnsaid.first && !asked.contains(key)) return std::string(kUnsaid.second);
  while (!asked.contains(key)) {
    const std::size_t dot = key.rfind('.');
    if (dot == std::string::npos) return "(nothing)";
    key.resize(dot);
  }
  return asked[key].is_string() ? asked[key].get<std::string>() : asked[key].dump();
}

}  // namespace

nlohmann::json plan_question(const Config& config) {
  nlohmann::json asked = nlohmann::json::object();
  for (auto& [key, text] : asked_values(config)) {
    if (std::pair<std::string_view, std::string_view>(key, text) != kUnsaid) asked[key] = text;
  }
  return asked;
}

void check_question(const nlohmann::json& asked, const Config& config, const std::string& name) {
  for (const auto& [key, here] : asked_values(config)) {
    const std::string there = value_of(asked, key);
    require(here == "auto" || here == there, ErrorKind::Config, "{}: was made for another run: {}: {} there, {} here",
            name, key, there, here);
  }
}

}  // namespace plimsoll
