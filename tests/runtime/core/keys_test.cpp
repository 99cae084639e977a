#include "runtime/core/keys.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

enum class Colour { Red, Green };
constexpr std::array<EnumName, 2> enum_names(Colour) {
  return {named(Colour::Red, "red"), named(Colour::Green, "green")};
}

struct Inner {
  double value = 1.5;
};

struct Section {
  bool flag = false;
  std::int64_t count = 3;
  std::optional<std::int64_t> maybe;
  std::optional<bool> tri;
  std::optional<std::int64_t> size;
  std::string text = "t";
  std::string path;
  Colour colour = Colour::Green;
  std::array<double, 2> pair{1, 2};
  Inner inner;
};

KeyTable<Section> table() {
  using C = Section;
  return {.keys = {key("flag", &C::flag, "a flag"), key("count", &C::count, between(1, 10), "1", "a count"),
                   key("maybe", &C::maybe, at_least(0), "steps", "perhaps"), key("tri", &C::tri, "three states"),
                   bytes_key("size", &C::size, above(0), "a size"), key("text", &C::text, "words"),
                   key_or("off", std::string(), "path", &C::path, {}, "", "a file"),
                   key("colour", &C::colour, "a colour"), key("pair", &C::pair, from_below(0, 5), "1", "two numbers"),
                   section("inner", &C::inner,
                           KeyTable<Inner>{.keys = {key("value", &Inner::value, above(1), "s", "a value")}})}};
}

ConfigNode map_of(std::vector<std::pair<std::string, ConfigNode>> entries) {
  ConfigNode map;
  map.kind = ConfigNode::Kind::Map;
  for (auto& [name, node] : entries) map.entries.push_back({name, {}, std::move(node)});
  return map;
}

// What reading `key: node` says; empty when it is accepted.
std::string fault_of(const std::string& name, ConfigNode node) {
  ConfigErrors errors;
  Section s;
  table().read(s, map_of({{name, std::move(node)}}), {"top", &errors, nullptr});
  return errors.text();
}

TEST(Keys, ReadsEveryType) {
  const auto word = [](const char* text) { return ConfigNode::scalar(text); };
  ConfigErrors errors;
  Section s;
  s.tri = true;
  table().read(s,
               map_of({{"flag", word("true")},
                       {"count", word("10")},
                       {"maybe", word("0")},
                       {"tri", word("auto")},
                       {"size", word("2 KiB")},
                       {"text", word("a b")},
                       {"path", word("off")},
                       {"colour", word("red")},
                       {"pair", ConfigNode::list({word("1e-3"), word("4")})},
                       {"inner", map_of({{"value", word("2")}})}}),
               {"", &errors, nullptr});
  EXPECT_EQ(errors.text(), "");
  EXPECT_TRUE(s.flag);
  EXPECT_EQ(s.count, 10);
  EXPECT_EQ(s.maybe, 0);
  EXPECT_FALSE(s.tri.has_value());
  EXPECT_EQ(s.size, 2048);
  EXPECT_EQ(s.text, "a b");
  EXPECT_EQ(s.path, "");
  EXPECT_EQ(s.colour, Colour::Red);
  EXPECT_EQ(s.pair[0], 1e-3);
  EXPECT_EQ(s.inner.value, 2);
}

TEST(Keys, FaultsNameTheKey) {
  EXPECT_EQ(fault_of("flag", ConfigNode::scalar("True")), "config: top.flag: expected true or false, got 'True'");
  EXPECT_EQ(fault_of("count", ConfigNode::scalar("11")), "config: top.count: 11 is out of range (1 to 10)");
  EXPECT_EQ(fault_of("count", ConfigNode::scalar("+3")), "config: top.count: expected an integer, got '+3'");
  EXPECT_EQ(fault_of("pair", ConfigNode::list({})), "config: top.pair: expected 2 values, got 0");
  EXPECT_EQ(fault_of("colour", ConfigNode::scalar("gren")),
            "config: top.colour: expected red | green, got 'gren' (did you mean 'green'?)");
  EXPECT_EQ(fault_of("inner", map_of({{"value", ConfigNode::scalar("1")}})),
            "config: top.inner.value: 1 is out of range (> 1)");
  EXPECT_EQ(fault_of("cuont", ConfigNode::scalar("1")), "config: unknown key 'cuont' in 'top' (did you mean 'count'?)");
  EXPECT_EQ(fault_of("text", ConfigNode::scalar("")), "config: top.text: the text is empty");
}

TEST(Keys, AFaultLeavesTheValueAsItWas) {
  ConfigErrors errors;
  Section s;
  table().read(s, map_of({{"count", ConfigNode::scalar("99")}, {"flag", ConfigNode::scalar("true")}}),
               {"top", &errors, nullptr});
  EXPECT_EQ(s.count, 3);
  EXPECT_TRUE(s.flag);
  EXPECT_TRUE(errors.unreadable("top.count"));
  EXPECT_FALSE(errors.unreadable("top.flag"));
}

TEST(Keys, WritesWhatItReads) {
  Section s;
  s.path = "off";  // a file of that name, not the word
  s.size = 3 << 20;
  s.pair = {0.1, 1e-300};
  s.text = "17";
  ConfigErrors errors;
  Section again;
  table().read(again, table().write(s), {"", &errors, nullptr});
  EXPECT_TRUE(errors.empty()) << errors.text();
  EXPECT_EQ(again.path, "off");
  EXPECT_EQ(again.size, s.size);
  EXPECT_EQ(again.pair, s.pair);
  EXPECT_EQ(again.text, "17");
  EXPECT_EQ(table().write(again).one_line(), table().write(s).one_line());
}

TEST(Keys, DescribesEveryKey) {
  const std::vector<KeyInfo> rows = table().describe(Section{}, "s");
  ASSERT_EQ(rows.size(), 10U);
  EXPECT_EQ(rows[1].name, "s.count");
  EXPECT_EQ(rows[1].default_text, "3");
  EXPECT_EQ(rows[1].range, "1 to 10");
  EXPECT_EQ(rows[2].type, "auto | integer");
  EXPECT_EQ(rows[2].default_text, "auto");
  EXPECT_EQ(rows[6].type, "off | text");
  EXPECT_EQ(rows[7].type, "red | green");
  EXPECT_EQ(rows[8].range, "0 <= x < 5");
  EXPECT_EQ(rows[9].name, "s.inner.value");
  EXPECT_EQ(rows[9].unit, "s");
}

TEST(Keys, ManyFaultsAreCounted) {
  ConfigErrors errors;
  for (int i = 0; i < 150; ++i) errors.add({}, "x");
  EXPECT_TRUE(errors.text().ends_with("and 50 more faults"));
}

TEST(Keys, LongAndStrangeTextsAreShortened) {
  EXPECT_EQ(quote_text(std::string("a\n\x1b") + "b"), "'a\\x0a\\x1bb'");
  EXPECT_EQ(quote_text(std::string(1000, 'z')).size(), 65U);
}

}  // namespace
}  // namespace plimsoll
