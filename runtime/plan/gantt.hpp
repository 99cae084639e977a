#pragma once
// A simulated pipeline step as a chart: one row per stage, time to the right.

#include <string>

#include "runtime/plan/simulate.hpp"

namespace plimsoll {

// A line per stage and one of totals. An action is its letter (F forward, B backward or input gradient, W weight
// gradient), its micro-batch, and for several chunks a letter for the chunk ("F3b" is the second chunk's), filled up
// with '-'; the letter alone where the rest does not fit. Blanks are idle. The chart has at most `columns` columns (at
// least 1) beside the names of the stages, and fewer if every label fits in fewer.
std::string gantt_text(const Timeline& timeline, int columns = 160);

// Where time begins in a chart, and how much of it is time: SVG units. Charts of a step share them.
inline constexpr double kChartLeft = 90, kChartWidth = 1300;

// A stand-alone SVG document. Each action is a box with a title: what it is, its slot, when it begins and ends.
std::string gantt_svg(const Timeline& timeline);

}  // namespace plimsoll
