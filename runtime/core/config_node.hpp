#pragma once
// A configuration as read: a tree of scalars, lists and maps that knows where each value stood. It is neutral, so that
// the folders that declare keys need no YAML.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plimsoll {

// Where something was written: a file with line and column (1-based), or, with line 0, a whole source such as `--set
// a=b`.
struct ConfigPlace {
  std::shared_ptr<const std::string> source;
  int line = 0;
  int column = 0;
  std::string text() const;  // "run.yaml:3:9"
};

struct ConfigEntry;

struct ConfigNode {
  enum class Kind { Null, Scalar, List, Map };
  Kind kind = Kind::Null;
  std::string text;                  // Scalar
  bool quoted = false;               // Scalar: written in quotes, so never a number or a word like auto
  std::vector<ConfigNode> items;     // List
  std::vector<ConfigEntry> entries;  // Map, in the order of the file, keys distinct
  ConfigPlace place;

  static ConfigNode scalar(std::string text, bool quoted = false);
  static ConfigNode list(std::vector<ConfigNode> items);
  bool is_word(std::string_view word) const { return kind == Kind::Scalar && !quoted && text == word; }
  const ConfigEntry* entry(std::string_view key) const;  // of a Map; null when absent or not a Map
  // The place of the value at "a.b.c", or of its nearest ancestor that was written down.
  ConfigPlace place_of(std::string_view path) const;
  // The value on one line, as in YAML's flow style.
  std::string one_line() const;
  // Of a Map and the Maps in it: one_line() of every other value by its path "a.b.c", behind `prefix` where it is not
  // empty ("prefix.a.b.c"); in the order of the entries.
  std::vector<std::pair<std::string, std::string>> values(const std::string& prefix = "") const;
};

struct ConfigEntry {
  std::string key;
  ConfigPlace place;
  ConfigNode value;
};

// What is wrong with a value, for messages: 'text' (shortened, control characters shown), "a list", "a map" or
// "nothing".
std::string describe_value(const ConfigNode& node);
// `text` in quotes, shortened to what a message can carry, control characters shown.
std::string quote_text(std::string_view text);

// Collects faults, so that all are reported at once.
class ConfigErrors {
 public:
  void add(const ConfigPlace& place, std::string text);
  // The same for the value of a key, which is remembered as unreadable.
  void add_value(const ConfigPlace& place, const std::string& key, const std::string& text);
  bool unreadable(std::string_view key) const;  // the key, or a section that holds it
  bool empty() const { return faults_.empty(); }
  std::size_t size() const { return faults_.size(); }
  // One line per fault, `place: text`, in the order of the sources; after kMostLines only their number.
  std::string text() const;

  static constexpr std::size_t kMostLines = 100;

 private:
  struct Fault {
    ConfigPlace place;
    std::string text;
  };
  std::vector<Fault> faults_;
  std::vector<std::string> unreadable_;
};

}  // namespace plimsoll
