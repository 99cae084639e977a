#include "launch/yaml_writer.hpp"

#include <yaml-cpp/emitter.h>
#include <yaml-cpp/emittermanip.h>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr int kBlockDepth = 2;  // sections and their keys

void emit(YAML::Emitter& out, const ConfigNode& node, int depth) {
  switch (node.kind) {
    case ConfigNode::Kind::Null: out << YAML::Null; return;
    case ConfigNode::Kind::Scalar:
      if (node.quoted) out << YAML::DoubleQuoted;
      out << node.text;
      return;
    case ConfigNode::Kind::List:
      out << YAML::Flow << YAML::BeginSeq;
      for (const ConfigNode& item : node.items) emit(out, item, depth + 1);
      out << YAML::EndSeq;
      return;
    case ConfigNode::Kind::Map:
      if (depth >= kBlockDepth) out << YAML::Flow;
      out << YAML::BeginMap;
      for (const ConfigEntry& entry : node.entries) {
        out << YAML::Key << entry.key << YAML::Value;
        emit(out, entry.value, depth + 1);
      }
      out << YAML::EndMap;
      return;
  }
}

}  // namespace

std::string write_yaml(const ConfigNode& root) {
  YAML::Emitter out;
  emit(out, root, 0);
  require(out.good(), ErrorKind::Internal, "the configuration cannot be written: {}", out.GetLastError());
  return std::string(out.c_str()) + "\n";
}

}  // namespace plimsoll
