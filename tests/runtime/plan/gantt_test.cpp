#include "runtime/plan/gantt.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "tests/runtime/plan/schedules.hpp"

namespace plimsoll {
namespace {

Timeline unit_time(const Schedule& s) { return simulate(s, uniform_costs(s, {1, 1, 1})); }

// A reader of the XML that a chart consists of: every tag closed in order, attributes quoted, no stray '<' or '&'.
// Returns the first fault, or "valid".
std::string xml_fault(std::string_view text) {
  std::vector<std::string_view> open;
  std::size_t elements = 0;
  while (!text.empty()) {
    const std::size_t begin = std::min(text.find('<'), text.size());
    const std::string_view words = text.substr(0, begin);
    if (words.find_first_of("&>") != words.npos) return "stray character in " + std::string(words);
    if (open.empty() && words.find_first_not_of(" \n") != words.npos) return "text outside of the document";
    text.remove_prefix(begin);
    if (text.empty()) break;
    const std::size_t end = text.find('>');
    if (end == text.npos) return "a tag without an end";
    std::string_view tag = text.substr(1, end - 1);
    text.remove_prefix(end + 1);
    if (tag.find_first_of("<&") != tag.npos || std::count(tag.begin(), tag.end(), '"') % 2 != 0) {
      return "bad tag " + std::string(tag);
    }
    const std::string_view name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag.front() == '/') {
      if (open.empty() || open.back() != name.substr(1)) return "closes " + std::string(name);
      open.pop_back();
    } else {
      if (open.empty() && elements++ > 0) return "a second document";
      if (tag.back() != '/') open.push_back(name);
    }
  }
  return open.empty() && elements == 1 ? "valid" : "not closed";
}

int count(std::string_view text, std::string_view part) {
  int found = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

TEST(Gantt, TextOfOneFOneB) {
  EXPECT_EQ(gantt_text(unit_time(make_schedule(ScheduleKind::OneFOneB, 3, 4))),
            "stage   0 |F0F1F2        B0--F3B1--  B2--  B3--|\n"
            "stage   1 |  F0F1    B0--F2B1--F3B2--  B3--    |\n"
            "stage   2 |    F0B0--F1B1--F2B2--F3B3--        |\n"
            "step 18 s, bubble 33.3 %\n");
}

TEST(Gantt, TextOfZeroBubble) {
  EXPECT_EQ(gantt_text(unit_time(make_schedule(ScheduleKind::ZbH1, 2, 3))),
            "stage   0 |F0F1  B0W0F2B1W1B2W2|\n"
            "stage   1 |  F0B0F1B1W0F2B2W1W2|\n"
            "step 10 s, bubble 10.0 %\n");
}

TEST(Gantt, TextNamesChunks) {
  const std::string text = gantt_text(unit_time(make_schedule(ScheduleKind::Interleaved, 2, 2, 2)));
  EXPECT_EQ(text,
            "stage   0 |F0aF1aF0bF1b      B0b---   B1b---B0a---B1a---|\n"
            "stage   1 |   F0aF1aF0bB0b---F1bB1b---B0a---B1a---      |\n"
            "step 7.5 s, bubble 20.0 %\n");
}

TEST(Gantt, TextKeepsToItsColumns) {
  const Timeline t = unit_time(make_schedule(ScheduleKind::OneFOneB, 8, 100));
  const std::string text = gantt_text(t, 80);
  for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    EXPECT_LE(text.find('\n', at) - at, 80U + std::string_view("stage   0 ||").size());
  }
  EXPECT_EQ(count(gantt_text(t, 1), "\n"), 9);
  EXPECT_EQ(count(gantt_text(unit_time(make_schedule(ScheduleKind::GPipe, 1, 11)), 44), "F1"), 1) << "F10 is not F1";
}

TEST(Gantt, ChartsOfNothing) {
  const Schedule s = make_schedule(ScheduleKind::GPipe, 1, 1);
  const Timeline t = simulate(s, uniform_costs(s, {0, 0, 0}));
  EXPECT_EQ(gantt_text(t), "stage   0 ||\nstep 0 s, bubble 0.0 %\n");
  EXPECT_EQ(xml_fault(gantt_svg(t)), "valid");
}

TEST(Gantt, SvgIsXmlWithATitlePerBox) {
  test::for_each_schedule(4, 8, [](const Schedule& s) {
    const std::string svg = gantt_svg(unit_time(s));
    ASSERT_EQ(xml_fault(svg), "valid") << test::name(s);
    int boxes = 0;
    for (const auto& actions : s.actions) boxes += static_cast<int>(actions.size());
    ASSERT_EQ(count(svg, "<g><title>"), boxes) << test::name(s);
    ASSERT_EQ(count(svg, "</title><rect "), boxes) << test::name(s);
    for (const auto& word : {"nan", "inf\"", "-0."}) ASSERT_EQ(count(svg, word), 0) << test::name(s);
  });
  const std::string svg = gantt_svg(unit_time(make_schedule(ScheduleKind::ZbH1, 2, 3)));
  EXPECT_EQ(count(svg, "<title>weight gradient of micro-batch 2, chunk 0, slot 0: 9 to 10 s</title>"), 2);
}

TEST(Gantt, FaultsOfXmlAreSeen) {
  EXPECT_EQ(xml_fault("<a><b/></a>"), "valid");
  EXPECT_NE(xml_fault("<a><b></a>"), "valid");
  EXPECT_NE(xml_fault("<a x=\"1></a>"), "valid");
  EXPECT_NE(xml_fault("<a>1 & 2</a>"), "valid");
  EXPECT_NE(xml_fault("<a/><a/>"), "valid");
}

}  // namespace
}  // namespace plimsoll
