#include "launch/yaml_reader.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <vector>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

using SourceName = std::shared_ptr<const std::string>;

// Builds the tree from events. What must end the reading is thrown as yaml-cpp's own syntax error.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(SourceName source, bool whole_source, ConfigErrors& errors)
      : source_(std::move(source)), whole_source_(whole_source), errors_(errors) {}

  ConfigNode take() { return std::move(root_); }
  ConfigPlace place(const YAML::Mark& mark) const {
    if (whole_source_ || mark.is_null()) return {source_, 0, 0};
    return {source_, mark.line + 1, mark.column + 1};
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) refuse(mark, "a second document");
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse(mark, "an anchor (&)"); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse(mark, "an alias (*)"); }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (expecting_key()) refuse(mark, "a key without a name");
    ConfigNode node;
    // The mark of an absent value is that of whatever comes next.
    node.place =
        frames_.empty() || frames_.back().node.kind != ConfigNode::Kind::Map ? place(mark) : frames_.back().key_place;
    finish(mark, std::move(node));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    if (tag != "?" && tag != "!") refuse(mark, "a tag (!)");
    if (expecting_key()) {
      count(mark);
      frames_.back().key = value;
      frames_.back().key_place = place(mark);
      frames_.back().has_key = true;
      return;
    }
    ConfigNode node = ConfigNode::scalar(value, tag == "!");
    node.place = place(mark);
    finish(mark, std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, ConfigNode::Kind::List);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, ConfigNode::Kind::Map);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    ConfigNode node;
    YAML::Mark mark;
    std::string key;
    ConfigPlace key_place;
    bool has_key = false;
  };

  [[noreturn]] static void refuse(const YAML::Mark& mark, const std::string& what) {
    throw YAML::ParserException(mark, what + " is not allowed in a configuration");
  }
  bool expecting_key() const {
    return !frames_.empty() && frames_.back().node.kind == ConfigNode::Kind::Map && !frames_.back().has_key;
  }
  void count(const YAML::Mark& mark) {
    if (++values_ > kMostYamlValues)
      throw YAML::ParserException(mark, fmt::format("more than {} values", kMostYamlValues));
  }
  void open(const YAML::Mark& mark, const std::string& tag, ConfigNode::Kind kind) {
    if (!tag.empty() && tag != "?" && tag != "!") refuse(mark, "a tag (!)");
    if (expecting_key()) refuse(mark, "a list or map as a key, or one whose bracket is never closed,");
    if (frames_.size() == kMostYamlDepth) {
      throw YAML::ParserException(mark, fmt::format("nested deeper than {} levels", kMostYamlDepth));
    }
    count(mark);
    Frame frame;
    frame.node.kind = kind;
    frame.node.place = place(mark);
    frame.mark = mark;
    frames_.push_back(std::move(frame));
  }
  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    attach(std::move(frame.node));
  }
  void finish(const YAML::Mark& mark, ConfigNode node) {
    count(mark);
    attach(std::move(node));
  }
  void attach(ConfigNode node) {
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& parent = frames_.back();
    if (parent.node.kind == ConfigNode::Kind::List) {
      parent.node.items.push_back(std::move(node));
      return;
    }
    parent.has_key = false;
    if (const ConfigEntry* first = parent.node.entry(parent.key)) {
      errors_.add(parent.key_place,
                  fmt::format("duplicate key {} (first at {})", quote_text(parent.key), first->place.text()));
    } else {
      parent.node.entries.push_back({parent.key, parent.key_place, std::move(node)});
    }
  }

  SourceName source_;
  bool whole_source_;
  ConfigErrors& errors_;
  ConfigNode root_;
  std::vector<Frame> frames_;
  int documents_ = 0;
  int values_ = 0;
};

// Where a text stops being UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
std::optional<std::size_t> invalid_utf8(const std::string& text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned first = byte(i);
    const std::size_t length = first < 0x80                    ? 1
                               : first >= 0xC2 && first < 0xE0 ? 2
                               : first >= 0xE0 && first < 0xF0 ? 3
                                                               : 4;
    const bool lead = first < 0x80 || (first >= 0xC2 && first <= 0xF4);
    // The second byte of these is narrower than 80 to BF.
    const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (!lead || (length > 1 && (byte(i + 1) < low || byte(i + 1) > high))) return i;
    for (std::size_t k = 2; k < length; ++k) {
      if ((byte(i + k) & 0xC0U) != 0x80) return i;
    }
    i += length;
  }
  return std::nullopt;
}

// yaml-cpp says only what it missed in the end where `{keep:[x]}` made one word of a key and what follows.
std::string colon_hint(const std::string& text, const std::string& fault) {
  const bool joined = text.find(":[") != std::string::npos || text.find(":{") != std::string::npos;
  const bool of_flow = fault.find("flow") != std::string::npos;
  return joined && of_flow ? " (YAML needs a space after the ':' of a key, as in {key: [value]})" : "";
}

}  // namespace

ConfigNode read_yaml(const std::string& text, const std::string& name, ConfigErrors& errors, bool whole_source) {
  const auto source = std::make_shared<const std::string>(name);
  if (text.size() > kMostYamlBytes) {
    errors.add({source, 0, 0}, fmt::format("larger than {} bytes", kMostYamlBytes));
    return {};
  }
  if (text.find('\0') != std::string::npos) {
    errors.add({source, 0, 0}, "contains a NUL character: not a text file in UTF-8");
    return {};
  }
  if (const auto bad = invalid_utf8(text)) {
    const auto line_begin = text.rfind('\n', *bad == 0 ? 0 : *bad - 1);
    const std::size_t column = line_begin == std::string::npos || line_begin >= *bad ? *bad : *bad - line_begin - 1;
    ConfigPlace place{source, 0, 0};
    if (!whole_source) {
      place.line =
          static_cast<int>(1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(*bad), '\n'));
      place.column = static_cast<int>(column) + 1;
    }
    errors.add(place, fmt::format("the byte 0x{:02x} is not UTF-8", static_cast<unsigned char>(text[*bad])));
    return {};
  }
  TreeBuilder builder(source, whole_source, errors);
  // yaml-cpp takes the end of the text for the end of an open quotation, but only after a line break.
  std::istringstream stream(text.substr(0, text.find_last_not_of(" \t\r\n") + 1));
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    errors.add(builder.place(error.mark), error.msg + colon_hint(text, error.msg));
    return {};
  }
  ConfigNode root = builder.take();
  if (!root.place.source) root.place = {source, whole_source ? 0 : 1, whole_source ? 0 : 1};
  return root;
}

std::string read_yaml_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  require(stream.good(), ErrorKind::MissingInput, "{}: cannot be opened", path);
  std::string text(kMostYamlBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  require(!stream.bad(), ErrorKind::MissingInput, "{}: cannot be read", path);
  text.resize(static_cast<std::size_t>(stream.gcount()));
  require(text.size() <= kMostYamlBytes, ErrorKind::Config, "{}: larger than {} bytes", path, kMostYamlBytes);
  return text;
}

void apply_override(ConfigNode& root, const std::string& assignment, ConfigErrors& errors) {
  const std::string name = "--set " + assignment.substr(0, 200);
  const ConfigPlace place{std::make_shared<const std::string>(name), 0, 0};
  const std::size_t equals = assignment.find('=');
  const std::string path = assignment.substr(0, equals);
  if (equals == std::string::npos || path.empty() || path.front() == '.' || path.back() == '.' ||
      path.find("..") != std::string::npos) {
    errors.add(place, "expected key=value, such as optimizer.lr=1e-4");
    return;
  }
  const std::size_t before = errors.size();
  ConfigNode value = read_yaml(assignment.substr(equals + 1), name, errors, true);
  if (errors.size() > before) return;

  ConfigNode* node = &root;
  for (std::size_t at = 0; at != std::string::npos;) {
    const std::size_t dot = path.find('.', at);
    const std::string key = path.substr(at, dot == std::string::npos ? dot : dot - at);
    at = dot == std::string::npos ? dot : dot + 1;
    if (node->kind != ConfigNode::Kind::Map) {
      // A word such as `parallel: auto` gives way to its keys.
      *node = {};
      node->kind = ConfigNode::Kind::Map;
      node->place = place;
    }
    auto* entry = const_cast<ConfigEntry*>(node->entry(key));
    if (entry == nullptr) {
      ConfigNode child;
      child.place = place;
      entry = &node->entries.emplace_back(ConfigEntry{key, place, std::move(child)});
    }
    entry->place = entry->value.kind == ConfigNode::Kind::Map && at != std::string::npos ? entry->place : place;
    node = &entry->value;
  }
  *node = std::move(value);
}

}  // namespace plimsoll
