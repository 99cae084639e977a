// The keys of the data section.

#include "runtime/core/keys.hpp"
#include "runtime/data/config.hpp"

namespace plimsoll {
namespace {

KeyTable<DataSource> source_keys() {
  using C = DataSource;
  return {.keys = {key("path", &C::path, "prefix of .bin and .idx"),
                   key("weight", &C::weight, above(0), "1", "share of the samples, relative to the others")}};
}

// `train` is a path, a list of paths, or a list of {path, weight}.
void read_train(DataConfig& data, const ConfigNode& node, const KeyScope& scope) {
  const bool is_list = node.kind == ConfigNode::Kind::List;
  const std::vector<ConfigNode> items = is_list ? node.items : std::vector<ConfigNode>{node};
  if (items.empty()) scope.fault(node, "the list is empty");
  std::vector<DataSource> sources;
  for (const ConfigNode& item : items) {
    DataSource source;
    if (is_list && item.kind == ConfigNode::Kind::Map) {
      source_keys().read(source, item, scope);
      if (item.entry("path") == nullptr) scope.fault(item, "the path is missing");
    } else {
      read_value(item, {}, scope, source.path);
    }
    sources.push_back(std::move(source));
  }
  data.train = std::move(sources);
}

ConfigNode write_train(const DataConfig& data) {
  std::vector<ConfigNode> items;
  for (const DataSource& source : data.train) items.push_back(source_keys().write(source));
  return ConfigNode::list(std::move(items));
}

// `validation` is a fraction, a path, or a list of paths.
void read_validation(DataConfig& data, const ConfigNode& node, const KeyScope& scope) {
  data.validation_files.clear();
  if (node.kind == ConfigNode::Kind::List) {
    if (node.items.empty()) scope.fault(node, "the list is empty");
    for (const ConfigNode& item : node.items) read_value(item, {}, scope, data.validation_files.emplace_back());
  } else if (node.kind == ConfigNode::Kind::Scalar &&
             (node.quoted || node.text.find_first_not_of("+-.0123456789eE") != std::string::npos)) {
    read_value(node, {}, scope, data.validation_files.emplace_back());
  } else {
    read_value(node, from_below(0, 1), scope, data.validation);
  }
  if (!data.validation_files.empty()) data.validation = 0;
}

ConfigNode write_validation(const DataConfig& data) {
  if (data.validation_files.empty()) return write_value(data.validation);
  std::vector<ConfigNode> items;
  for (const std::string& file : data.validation_files) items.push_back(write_value(file));
  return ConfigNode::list(std::move(items));
}

}  // namespace

KeyTable<DataConfig> data_keys() {
  using C = DataConfig;
  return {
      .keys = {
          {"train",
           "text | list of text | list of {path, weight}",
           "",
           "",
           "token files, prefixes of .bin and .idx",
           read_train,
           write_train,
           {},
           true},
          {"validation", "number | text | list of text", "1", from_below(0, 1).text(),
           "the last part of each training file, or other token files", read_validation, write_validation},
          key("sequence", &C::sequence, between(1, 1 << 30), "tokens", "length of a sample"),
          key("dtype", &C::dtype,
              "ids of a raw .bin (no .idx, no header); auto: the width at which all are in the vocabulary; must not "
              "contradict an .idx or a header"),
      }};
}

}  // namespace plimsoll
