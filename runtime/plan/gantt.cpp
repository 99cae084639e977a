#include "runtime/plan/gantt.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

template <class Visit>
void for_each_action(const Timeline& timeline, Visit visit) {
  for (std::size_t stage = 0; stage < timeline.stages.size(); ++stage) {
    for (const TimedAction& t : timeline.stages[stage]) visit(stage, t);
  }
}

bool has_chunks(const Timeline& timeline) {
  bool several = false;
  for_each_action(timeline, [&](std::size_t, const TimedAction& t) { several |= t.action.chunk > 0; });
  return several;
}

char letter(ActionKind kind) {
  switch (kind) {
    case ActionKind::Forward: return 'F';
    case ActionKind::Backward:
    case ActionKind::InputGrad: return 'B';
    case ActionKind::WeightGrad: return 'W';
  }
  return '?';
}

// The chunk as a, b, …, z, aa, …
std::string chunk_letters(int chunk) {
  std::string text;
  for (++chunk; chunk > 0; chunk = (chunk - 1) / 26)
    text.insert(text.begin(), static_cast<char>('a' + (chunk - 1) % 26));
  return text;
}

std::string label(const Action& action, bool chunks) {
  return fmt::format("{}{}{}", letter(action.kind), action.micro_batch, chunks ? chunk_letters(action.chunk) : "");
}

std::string totals(const Timeline& timeline) {
  return fmt::format("step {:.6g} s, bubble {:.1f} %", timeline.step_s, 100 * timeline.bubble);
}

// Columns per second: as many as let every action show its label, or as few as fit.
double columns_per_second(const Timeline& timeline, bool chunks, int columns) {
  double scale = 0;
  for_each_action(timeline, [&](std::size_t, const TimedAction& t) {
    const double length = t.end_s - t.start_s;
    if (length > 0) scale = std::max(scale, static_cast<double>(label(t.action, chunks).size()) / length);
  });
  return timeline.step_s > 0 ? std::min(scale, columns / timeline.step_s) : 0;
}

constexpr double kLeft = kChartLeft, kTop = 34, kWidth = kChartWidth, kRow = 30, kBox = 24, kLegend = 34;  // SVG units

// Later chunks are darker.
std::string colour(const Action& action, int chunks) {
  struct Rgb {
    int red, green, blue;
  };
  const auto base = [&]() -> Rgb {
    switch (action.kind) {
      case ActionKind::Forward: return {120, 170, 240};
      case ActionKind::Backward: return {130, 200, 140};
      case ActionKind::InputGrad: return {150, 215, 210};
      case ActionKind::WeightGrad: return {240, 200, 120};
    }
    return {};
  }();
  const double shade = 1 - 0.4 * action.chunk / chunks;
  const auto part = [shade](int value) { return static_cast<int>(std::lround(value * shade)); };
  return fmt::format("#{:02x}{:02x}{:02x}", part(base.red), part(base.green), part(base.blue));
}

void svg_box(std::string& svg, double y, const TimedAction& t, double scale, int chunks) {
  const double x = kLeft + t.start_s * scale;
  const double width = (t.end_s - t.start_s) * scale;
  const std::string text = label(t.action, chunks > 1);
  auto out = std::back_inserter(svg);
  fmt::format_to(out,
                 R"(<g><title>{}, slot {}: {:.6g} to {:.6g} s</title><rect x="{:.2f}" y="{:.2f}" width="{:.2f}" )"
                 R"(height="{}" fill="{}" stroke="#ffffff" stroke-width="0.5"/>)",
                 to_text(t.action), t.action.slot, t.start_s, t.end_s, x, y, width, kBox, colour(t.action, chunks));
  if (width >= 7.0 * static_cast<double>(text.size())) {
    fmt::format_to(out, R"(<text x="{:.2f}" y="{:.2f}" text-anchor="middle">{}</text>)", x + width / 2, y + kBox * 0.67,
                   text);
  }
  svg += "</g>\n";
}

void svg_legend(std::string& svg, double y) {
  double x = kLeft;
  for (const EnumName& kind : enum_names(ActionKind{})) {
    fmt::format_to(std::back_inserter(svg),
                   "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"14\" height=\"14\" fill=\"{}\"/>"
                   "<text x=\"{:.2f}\" y=\"{:.2f}\">{}</text>\n",
                   x, y, colour({static_cast<ActionKind>(kind.value), 0, 0, 0}, 1), x + 20, y + 11, kind.name);
    x += 130;
  }
}

}  // namespace

std::string gantt_text(const Timeline& timeline, int columns) {
  require(columns >= 1, ErrorKind::Internal, "gantt_text: {} columns", columns);
  const bool chunks = has_chunks(timeline);
  const double scale = columns_per_second(timeline, chunks, columns);
  const auto column = [scale](double seconds) { return static_cast<std::size_t>(std::lround(seconds * scale)); };
  std::vector<std::string> rows(timeline.stages.size(), std::string(column(timeline.step_s), ' '));
  for_each_action(timeline, [&](std::size_t stage, const TimedAction& t) {
    const std::size_t begin = column(t.start_s);
    const std::size_t width = column(t.end_s) - begin;
    std::string box = label(t.action, chunks);
    if (box.size() > width) box.resize(1);
    box.resize(width, '-');
    rows[stage].replace(begin, width, box);
  });
  std::string text;
  for (std::size_t stage = 0; stage < rows.size(); ++stage) {
    fmt::format_to(std::back_inserter(text), "stage {:>3} |{}|\n", stage, rows[stage]);
  }
  return text + totals(timeline) + "\n";
}

std::string gantt_svg(const Timeline& timeline) {
  int chunks = 1;
  for_each_action(timeline, [&](std::size_t, const TimedAction& t) { chunks = std::max(chunks, t.action.chunk + 1); });
  const double scale = timeline.step_s > 0 ? kWidth / timeline.step_s : 0;
  const double rows_end = kTop + kRow * static_cast<double>(timeline.stages.size());
  const double width = kLeft + kWidth + 20;
  std::string svg =
      fmt::format(R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" )"
                  R"(font-family="sans-serif" font-size="11">)"
                  "\n<title>Pipeline: {2}</title>\n"
                  R"(<rect width="100%" height="100%" fill="#ffffff"/><text x="{3}" y="20" font-size="14">{2}</text>)"
                  "\n",
                  width, rows_end + kLegend, totals(timeline), kLeft);
  for (std::size_t stage = 0; stage < timeline.stages.size(); ++stage) {
    const double y = kTop + kRow * static_cast<double>(stage);
    fmt::format_to(std::back_inserter(svg),
                   "<text x=\"8\" y=\"{0:.2f}\">stage {1}</text>"
                   "<rect x=\"{2}\" y=\"{3:.2f}\" width=\"{4}\" height=\"{5}\" fill=\"#eeeeee\"/>\n",
                   y + kBox * 0.67, stage, kLeft, y, kWidth, kBox);
    for (const TimedAction& t : timeline.stages[stage]) svg_box(svg, y, t, scale, chunks);
  }
  svg_legend(svg, rows_end + 10);
  return svg + "</svg>\n";
}

}  // namespace plimsoll
