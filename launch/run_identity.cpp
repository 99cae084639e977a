#include "launch/run_identity.hpp"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "launch/config_keys.hpp"
#include "runtime/core/config_node.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

std::string file_text(const std::string& prefix) {
  for (const std::string& path : {prefix + ".bin", prefix}) {
    std::error_code missing;
    const auto bytes = fs::file_size(path, missing);
    if (!missing) return fmt::format("{} ({} bytes)", fs::path(path).filename().string(), bytes);
  }
  return fs::path(prefix).filename().string();
}

std::string train_text(const DataConfig& data) {
  std::vector<std::string> parts;
  for (const DataSource& s : data.train)
    parts.push_back(file_text(s.path) + (data.train.size() > 1 ? fmt::format(" weight {}", s.weight) : ""));
  return join(parts, ", ");
}

std::string validation_text(const DataConfig& data) {
  if (data.validation_files.empty()) return fmt::format("{}", data.validation);
  std::vector<std::string> parts;
  for (const std::string& path : data.validation_files) parts.push_back(file_text(path));
  return join(parts, ", ");
}

bool is_fixed(const std::string& key) {
  // Where the first weights came from is over when there is a checkpoint.
  if (key == "model.preset" || key == "model.from") return false;
  return key.starts_with("model.") || key.starts_with("data.") || key == "run.seed" || key == "train.global_batch" ||
         key == "optimizer.name" || key == "precision";
}

bool is_changeable(const std::string& key) {
  return key.starts_with("optimizer.") || key.starts_with("schedule.") || key == "train.steps";
}

nlohmann::json identity_of(const Config& config) {
  const auto written = config_keys().write(config).values();
  std::map<std::string, std::string> values(written.begin(), written.end());
  values["data.train"] = train_text(config.data);
  values["data.validation"] = validation_text(config.data);
  nlohmann::json identity{{"fixed", nlohmann::json::object()}, {"changeable", nlohmann::json::object()}};
  // Momentum may change, but not whether there is a velocity to go on with.
  if (config.optimizer.name == OptimizerName::Sgd) {
    identity["fixed"]["optimizer.momentum"] = config.optimizer.momentum > 0 ? "above 0" : "0";
  }
  // Its scales are part of a checkpoint. Where it is off nothing is said, as before there was such a key.
  if (config.fp8 != Fp8Use::Off) identity["fixed"]["fp8"] = values.at("fp8");
  for (const auto& [key, text] : values) {
    if (is_fixed(key)) {
      identity["fixed"][key] = text;
    } else if (is_changeable(key)) {
      identity["changeable"][key] = text;
    }
  }
  return identity;
}

// Keys of one side only are taken for different: the other build has no such key.
std::vector<std::string> differences(const nlohmann::json& before, const nlohmann::json& now) {
  const auto text = [](const nlohmann::json& side, const std::string& key) {
    return side.is_object() ? side.value(key, std::string("(nothing)")) : std::string("(nothing)");
  };
  std::map<std::string, int> keys;
  for (const nlohmann::json* side : {&before, &now}) {
    for (const auto& item : side->items()) keys[item.key()] = 1;
  }
  std::vector<std::string> lines;
  for (const auto& [key, unused] : keys) {
    const std::string was = text(before, key), is = text(now, key);
    if (was != is) lines.push_back(fmt::format("{}: {} in the checkpoint, {} now", key, was, is));
  }
  return lines;
}

}  // namespace

std::string run_identity(const Config& config) {
  return identity_of(config).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::vector<std::string> compare_identity(const std::string& stored, const Config& config, const std::string& name) {
  const nlohmann::json before = nlohmann::json::parse(stored, nullptr, false);
  require(before.is_object() && before.contains("fixed") && before["fixed"].is_object(), ErrorKind::Config,
          "{}: does not say which run it is of; use another run.dir", name);
  const nlohmann::json now = nlohmann::json::parse(run_identity(config));
  const std::vector<std::string> fixed = differences(before["fixed"], now["fixed"]);
  require(fixed.empty(), ErrorKind::Config,
          "{}: is a checkpoint of another run; use another run.dir, or what it was started with:\n  {}", name,
          join(fixed, "\n  "));
  return differences(before.value("changeable", nlohmann::json::object()), now["changeable"]);
}

}  // namespace plimsoll
