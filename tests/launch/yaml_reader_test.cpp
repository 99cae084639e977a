// The YAML reader: trees with places, and its limits, which must act before anything large is built.

#include "launch/yaml_reader.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>

#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

std::string repeat(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

std::string faults(const std::string& yaml) {
  ConfigErrors errors;
  read_yaml(yaml, "f", errors);
  return errors.text();
}

TEST(YamlReader, PlacesAreOneBased) {
  ConfigErrors errors;
  const ConfigNode root = read_yaml("a: 1\nb:\n  c: [x, 'y']\n", "f", errors);
  ASSERT_TRUE(errors.empty()) << errors.text();
  EXPECT_EQ(root.place_of("a").text(), "f:1:4");
  EXPECT_EQ(root.place_of("b.c").text(), "f:3:6");
  const ConfigEntry* b = root.entry("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->place.text(), "f:2:1");
  const ConfigEntry* c = b->value.entry("c");
  ASSERT_NE(c, nullptr);
  ASSERT_EQ(c->value.items.size(), 2U);
  EXPECT_FALSE(c->value.items[0].quoted);
  EXPECT_TRUE(c->value.items[1].quoted);
  EXPECT_EQ(c->value.items[1].place.text(), "f:3:10");
}

TEST(YamlReader, AnEmptyTextIsNull) {
  ConfigErrors errors;
  for (const char* text : {"", "\n\n", "# only a comment\n"}) {
    const ConfigNode root = read_yaml(text, "f", errors);
    EXPECT_EQ(root.kind, ConfigNode::Kind::Null);
    EXPECT_EQ(root.place.text(), "f:1:1");
  }
  EXPECT_TRUE(errors.empty()) << errors.text();
}

TEST(YamlReader, EveryDuplicateKeyIsAFault) {
  EXPECT_EQ(faults("a: 1\nb: 2\na: 3\nc: {d: 1, d: 2}\n"),
            "f:3:1: duplicate key 'a' (first at f:1:1)\nf:4:11: duplicate key 'd' (first at f:4:5)");
}

TEST(YamlReader, SaysThatAColonNeedsASpace) {
  const std::string hint = "needs a space after the ':'";
  EXPECT_NE(faults("a: [{keep:[x]}]\n").find(hint), std::string::npos) << faults("a: [{keep:[x]}]\n");
  EXPECT_NE(faults("a: {b:{c: 1}\n").find(hint), std::string::npos) << faults("a: {b:{c: 1}\n");
  EXPECT_EQ(faults("a: [{keep: [x]}\n").find(hint), std::string::npos) << "a bracket is missing, and no space";
  EXPECT_EQ(faults("a: [{keep: [x]}]\n"), "");
}

TEST(YamlReader, RefusesWhatAConfigurationDoesNotNeed) {
  const std::pair<const char*, const char*> rows[] = {
      {"a: &x 1\n", "an anchor (&)"},
      {"a: *x\n", "the referenced anchor is not defined"},
      {"a: &x [*x]\n", "an anchor (&)"},
      {"a: !!int 1\n", "a tag (!)"},
      {"a: !mine {b: 1}\n", "a tag (!)"},
      {"a: 1\n---\nb: 2\n", "a second document"},
      {"? [a, b]\n: 1\n", "a list or map as a key"},
      {"? {a: b}\n: 1\n", "a list or map as a key"},
      {"[1,2", "one whose bracket is never closed"},
      {"{: 1}\n", "a key without a name"},
  };
  for (const auto& [yaml, text] : rows) {
    const std::string got = faults(yaml);
    EXPECT_TRUE(got.starts_with("f:")) << yaml << got;
    EXPECT_NE(got.find(text), std::string::npos) << yaml << got;
  }
}

TEST(YamlReader, SyntaxErrorsHaveAPlace) {
  for (const char* yaml : {"a: [1, 2\n", "a: 'x\n", "a: \"x\n\n", "a: 'x\nb: 2\n", "a: 1\n  b: 2\n", "a: {b: 1\nc: 2",
                           "a: 1\n]\n", "\ta: 1\n", "a: @x\n"}) {
    const std::string got = faults(yaml);
    EXPECT_TRUE(got.starts_with("f:1:") || got.starts_with("f:2:") || got.starts_with("f:3:")) << yaml << got;
  }
}

TEST(YamlReader, DepthIsLimitedAtSixteen) {
  EXPECT_EQ(faults(repeat("[", 16) + repeat("]", 16)), "");
  EXPECT_NE(faults(repeat("[", 17) + repeat("]", 17)).find("f:1:17: nested deeper than 16 levels"), std::string::npos);
  EXPECT_NE(faults(repeat("{a: ", 17) + "1" + repeat("}", 17)).find("nested deeper"), std::string::npos);
}

// Each is refused with a place, and at once: the limit of time is far above what they take and far below what they
// would take without limits.
TEST(YamlReader, BombsFailFast) {
  std::string laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n";  // 342 bytes that stand for 9^9 values
  for (char c = 'b'; c <= 'i'; ++c) {
    laughs += fmt::format("{0}: &{0} [*{1},*{1},*{1},*{1},*{1},*{1},*{1},*{1},*{1}]\n", c, static_cast<char>(c - 1));
  }
  const std::pair<const char*, std::string> bombs[] = {
      {"laughs", laughs},
      {"lists", repeat("[", 100000)},
      {"maps", repeat("{a: ", 100000)},
      {"block lists", repeat("- ", 100000)},
      {"keys", repeat("? ", 100000)},
      {"list of 10 MB", "a: [" + repeat("1,", 5000000) + "1]"},
      {"list of 1 MB", "a: [" + repeat("1,", 500000) + "1]"},
      {"block list of 1 MB", repeat("- 1\n", 250000)},
      {"distinct keys",
       [] {
         std::string text;
         for (int i = 0; i < 90000; ++i) text += fmt::format("k{}: 1\n", i);
         return text;
       }()},
      {"tags", repeat("!", 100000)},
      {"anchors", repeat("&a ", 100000)},
      {"documents", repeat("--- 1\n", 100000)},
      {"NUL", std::string("a: 1\0b: 2", 9)},
  };
  for (const auto& [name, text] : bombs) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string got = faults(text);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    EXPECT_TRUE(got.starts_with("f:")) << name << ": " << got;
    EXPECT_LT(got.size(), 300U) << name;
    EXPECT_LT(spent.count(), 5.0) << name;
  }
}

TEST(YamlReader, FilesAreReadUpToOneMebibyte) {
  const test::TempFolder folder;
  const auto kind_of = [](const std::string& path) {
    try {
      read_yaml_file(path);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
      return error.kind();
    }
    return ErrorKind::Internal;
  };
  test::write_text(folder / "good.yaml", "a: 1\n");
  EXPECT_EQ(read_yaml_file((folder / "good.yaml").string()), "a: 1\n");
  test::write_text(folder / "full.yaml", std::string(kMostYamlBytes, ' '));
  EXPECT_EQ(read_yaml_file((folder / "full.yaml").string()).size(), kMostYamlBytes);
  test::write_text(folder / "big.yaml", std::string(kMostYamlBytes + 1, ' '));
  EXPECT_EQ(kind_of((folder / "big.yaml").string()), ErrorKind::Config);
  EXPECT_EQ(kind_of("/dev/zero"), ErrorKind::Config);
  EXPECT_EQ(kind_of((folder / "absent.yaml").string()), ErrorKind::MissingInput);
  EXPECT_EQ(kind_of(folder.path().string()), ErrorKind::MissingInput);
}

TEST(YamlReader, OverridesReachIntoTheTree) {
  ConfigErrors errors;
  ConfigNode root = read_yaml("a: {b: 1}\np: auto\n", "f", errors);
  for (const char* text : {"a.b=2", "a.c=[1, 2]", "x.y.z='q'", "p.data=3", "a.d=u=v"})
    apply_override(root, text, errors);
  ASSERT_TRUE(errors.empty()) << errors.text();
  EXPECT_EQ(root.one_line(), "{a: {b: 2, c: [1, 2], d: u=v}, p: {data: 3}, x: {y: {z: q}}}");
  EXPECT_EQ(root.place_of("a.b").text(), "--set a.b=2");
}

TEST(YamlReader, WrongOverridesAreFaults) {
  for (const char* text : {"", "a", "=1", ".a=1", "a.=1", "a..b=1", "a=[1", "a=*x", "a=&x 1", "a={b: 1, b: 2}"}) {
    ConfigErrors errors;
    ConfigNode root;
    root.kind = ConfigNode::Kind::Map;
    apply_override(root, text, errors);
    EXPECT_FALSE(errors.empty()) << text;
    EXPECT_TRUE(errors.text().starts_with(std::string("--set ") + text)) << errors.text();
  }
}

}  // namespace
}  // namespace plimsoll
