#include "launch/config.hpp"

#include <algorithm>
#include <sstream>

#include "launch/config_checks.hpp"
#include "launch/config_keys.hpp"
#include "launch/yaml_reader.hpp"
#include "launch/yaml_writer.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// The key as it was written down, or the nearest of the others that was, or where the key's section stands.
ConfigPlace place_of(const ConfigIssue& issue, const ConfigNode& root) {
  const auto is_written = [&](const std::string& path) {
    const ConfigNode* node = &root;
    for (std::size_t at = 0; at <= path.size();) {
      const std::size_t dot = std::min(path.find('.', at), path.size());
      const ConfigEntry* entry = node->entry(std::string_view(path).substr(at, dot - at));
      if (entry == nullptr) return false;
      node = &entry->value;
      at = dot + 1;
    }
    return true;
  };
  if (!is_written(issue.key)) {
    const auto other = std::find_if(issue.others.begin(), issue.others.end(), is_written);
    if (other != issue.others.end()) return root.place_of(*other);
  }
  return root.place_of(issue.key);
}

void add_issues(const std::vector<ConfigIssue>& issues, const ConfigNode& root, ConfigErrors& errors) {
  for (const ConfigIssue& issue : issues) {
    const auto unreadable = [&](const std::string& key) { return errors.unreadable(key); };
    if (unreadable(issue.key) || std::any_of(issue.others.begin(), issue.others.end(), unreadable)) continue;
    errors.add(place_of(issue, root), issue.key + ": " + issue.text);
  }
}

void throw_if_any(const ConfigErrors& errors) { require(errors.empty(), ErrorKind::Config, "{}", errors.text()); }

ConfigNode read_tree(const std::string& yaml, const std::string& name, std::span<const std::string> overrides,
                     ConfigErrors& errors) {
  ConfigNode root = read_yaml(yaml, name, errors);
  const bool readable = root.place.source != nullptr;
  if (root.kind == ConfigNode::Kind::Null) {
    const ConfigPlace place = root.place;
    root = {};
    root.kind = ConfigNode::Kind::Map;
    root.place = place;
  }
  if (readable && root.kind != ConfigNode::Kind::Map) {
    errors.add(root.place, "expected a map of sections, got " + describe_value(root));
  }
  for (const std::string& assignment : overrides) apply_override(root, assignment, errors);
  // Without its text nothing more can be said about a file.
  if (!readable || root.kind != ConfigNode::Kind::Map) throw_if_any(errors);
  return root;
}

}  // namespace

bool same_values(const Config& a, const Config& b) {
  return a.model == b.model && a.data == b.data && a.train == b.train && a.optimizer == b.optimizer &&
         a.schedule == b.schedule && a.parallel == b.parallel && a.memory == b.memory && a.comm == b.comm &&
         a.precision == b.precision && a.fp8 == b.fp8 && a.device == b.device && a.cuda == b.cuda && a.run == b.run;
}

Config load_config(const std::string& path, std::span<const std::string> overrides) {
  return parse_config(read_yaml_file(path), path, overrides);
}

Config parse_config(const std::string& yaml, const std::string& name, std::span<const std::string> overrides) {
  ConfigErrors errors;
  auto root = std::make_shared<ConfigNode>(read_tree(yaml, name, overrides, errors));

  std::vector<std::string> all_keys;
  for (const KeyInfo& info : config_key_infos()) all_keys.push_back(info.name);
  Config config;
  config_keys().read(config, *root, {"", &errors, &all_keys});
  add_issues(contradictions(config), *root, errors);
  add_issues(unsupported_values(config), *root, errors);
  throw_if_any(errors);

  config.model = resolve(std::move(config.model));
  resolve_automatic(config);
  config.source = std::move(root);
  return config;
}

void check_for_ranks(Config& config, int ranks) {
  ConfigErrors errors;
  const ConfigNode nowhere;
  add_issues(rank_contradictions(config, ranks), config.source ? *config.source : nowhere, errors);
  throw_if_any(errors);
  if (config.parallel.automatic) return;
  config.parallel.data = ranks / (config.parallel.pipeline * config.parallel.tensor);
}

std::string dump_config(const Config& config, const Choices& choices) {
  std::istringstream lines(write_yaml(config_keys().write(config)));
  std::string out;
  std::map<std::size_t, std::string> path;  // by indentation: the keys that a line lies under, with its own
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':'), indent = line.find_first_not_of(' ');
    out += line;
    if (colon != std::string::npos) {
      path.erase(path.lower_bound(indent), path.end());
      const std::string above = path.empty() ? "" : path.rbegin()->second + ".";
      path[indent] = above + line.substr(indent, colon - indent);
      const std::string value = line.substr(colon);
      const auto choice = value == ": auto" ? choices.find(path[indent]) : choices.end();
      if (choice != choices.end()) out += "  # " + choice->second;
      for (const auto& [key, chosen] : choices) {  // of a section on one line
        if (!value.starts_with(": {") || !key.starts_with(path[indent] + ".")) continue;
        const std::string name = key.substr(path[indent].size() + 1);
        if (value.find(name + ": auto") != std::string::npos) out += "  # " + name + ": " + chosen;
      }
    }
    out += "\n";
  }
  return out;
}

std::string key_place(const Config& config, const std::string& key, const std::vector<std::string>& others) {
  if (!config.source) return key;
  return place_of({key, "", others}, *config.source).text() + ": " + key;
}

}  // namespace plimsoll
