#include "launch/cluster_file.hpp"

#include "launch/yaml_reader.hpp"
#include "launch/yaml_writer.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/keys.hpp"

namespace plimsoll {
namespace {

// A figure that is not written down would silently be that of a CPU. Lists may be left out: they are measurements.
void require_all_keys(const ConfigNode& given, const ConfigNode& all, const std::string& path, ConfigErrors& errors) {
  for (const ConfigEntry& key : all.entries) {
    if (key.value.kind == ConfigNode::Kind::List) continue;
    const std::string full = path.empty() ? key.key : path + "." + key.key;
    const ConfigEntry* found = given.entry(key.key);
    if (found == nullptr) {
      errors.add(given.place, full + ": is required");
    } else if (key.value.kind == ConfigNode::Kind::Map) {
      require_all_keys(found->value, key.value, full, errors);
    }
  }
}

}  // namespace

ClusterDescription parse_cluster(const std::string& yaml, const std::string& name) {
  ConfigErrors errors;
  const ConfigNode root = read_yaml(yaml, name, errors);
  ClusterDescription cluster;
  if (errors.empty()) {
    const KeyTable<ClusterDescription> keys = cluster_keys();
    std::vector<std::string> names;
    for (const KeyInfo& info : keys.describe(cluster, "")) names.push_back(info.name);
    if (root.kind != ConfigNode::Kind::Map) errors.add(root.place, "expected a map, got " + describe_value(root));
    keys.read(cluster, root, {"", &errors, &names});
    if (root.kind == ConfigNode::Kind::Map) require_all_keys(root, keys.write(cluster), "", errors);
  }
  require(errors.empty(), ErrorKind::Config, "{}", errors.text());
  return cluster;
}

std::string write_cluster(const ClusterDescription& cluster, const std::string& comment) {
  ClusterDescription lines = cluster;
  lines.measured.clear();
  ConfigNode root = cluster_keys().write(lines);
  root.entries.pop_back();
  std::string text = comment + write_yaml(root);
  if (cluster.measured.empty()) return text;
  text += "measured:\n";
  const ConfigNode all = cluster_keys().write(cluster);
  for (const ConfigNode& link : all.entry("measured")->value.items) text += "  - " + link.one_line() + "\n";
  return text;
}

ClusterDescription load_cluster(const std::string& path) { return parse_cluster(read_yaml_file(path), path); }

}  // namespace plimsoll
