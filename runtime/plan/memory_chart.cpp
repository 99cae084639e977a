#include "runtime/plan/memory_chart.hpp"

#include <algorithm>
#include <iterator>

#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

constexpr double kLeft = 90, kTop = 40, kWidth = 1300, kHeight = 460, kBottom = 60, kRight = 110;  // SVG units
constexpr std::array<std::string_view, kMemoryClassNames.size()> kColours{
    "#4878a8", "#6fa8dc", "#9fc5e8", "#8fbf88", "#f0c878", "#d98880", "#b8a0d0", "#90c8c0", "#c8b090", "#a0a8b8"};
constexpr std::string_view kOutsideColour = "#c8c8c8";

struct Band {
  std::string_view name, colour;
  std::vector<std::int64_t> bytes;  // by node
};

// From the bottom up; bands without a byte are left out.
std::vector<Band> bands_of(const MemoryPlan& plan, const ProgramLayout& program, const MemoryLimits& limits) {
  const std::size_t nodes = program.live_class_bytes.size();
  std::vector<Band> bands{{"outside the arena", kOutsideColour, std::vector(nodes, limits.outside_bytes)}};
  for (std::size_t c = 0; c < kMemoryClassNames.size(); ++c) {
    std::int64_t persistent = 0;
    for (const PersistentRegion& r : plan.persistent) {
      if (static_cast<std::size_t>(r.memory) == c) persistent += r.bytes;
    }
    Band band{kMemoryClassNames[c], kColours[c], {}};
    for (const ClassBytes& live : program.live_class_bytes) band.bytes.push_back(persistent + live[c]);
    bands.push_back(std::move(band));
  }
  std::erase_if(bands, [](const Band& b) {
    return std::all_of(b.bytes.begin(), b.bytes.end(), [](std::int64_t n) { return n == 0; });
  });
  return bands;
}

// The largest of bands and limits, with room above it.
double top_of(const std::vector<Band>& bands, std::int64_t planned, const MemoryLimits& limits) {
  std::int64_t most = std::max({planned, limits.budget_bytes, std::int64_t{1}});
  const std::size_t nodes = bands.empty() ? 0 : bands.front().bytes.size();
  for (std::size_t n = 0; n < nodes; ++n) {
    std::int64_t sum = 0;
    for (const Band& b : bands) sum += b.bytes[n];
    most = std::max(most, sum);
  }
  return 1.05 * static_cast<double>(most);
}

class Chart {
 public:
  explicit Chart(double top_bytes) : scale_(kHeight / top_bytes) {}

  // Stairs: a node's bytes over its width. `base` rises by the band.
  void band(const Band& band, std::vector<std::int64_t>& base) {
    const double width = kWidth / static_cast<double>(band.bytes.size());
    const auto edge = [&](std::size_t n) { return kLeft + width * static_cast<double>(n); };
    std::string points;
    auto out = std::back_inserter(points);
    for (std::size_t n = 0; n < base.size(); ++n) {
      fmt::format_to(out, "{:.2f},{:.2f} {:.2f},{:.2f} ", edge(n), y(base[n]), edge(n + 1), y(base[n]));
    }
    std::int64_t most = 0;
    for (std::size_t n = base.size(); n-- > 0;) {
      base[n] += band.bytes[n];
      most = std::max(most, band.bytes[n]);
      fmt::format_to(out, "{:.2f},{:.2f} {:.2f},{:.2f} ", edge(n + 1), y(base[n]), edge(n), y(base[n]));
    }
    points.pop_back();
    fmt::format_to(std::back_inserter(svg_),
                   "<polygon fill=\"{}\" points=\"{}\"><title>{}, at most {}</title></polygon>\n", band.colour, points,
                   band.name, format_bytes(most));
    fmt::format_to(std::back_inserter(legend_),
                   "<rect x=\"{0:.2f}\" y=\"{1:.2f}\" width=\"14\" height=\"14\" fill=\"{2}\"/>"
                   "<text x=\"{3:.2f}\" y=\"{4:.2f}\">{5}</text>\n",
                   legend_x_, kTop + kHeight + 30, band.colour, legend_x_ + 20, kTop + kHeight + 41, band.name);
    legend_x_ += 140;
  }

  void line(std::string_view name, std::int64_t bytes, std::string_view colour) {
    fmt::format_to(std::back_inserter(svg_),
                   "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.2f}\" y2=\"{2:.2f}\" stroke=\"{3}\" stroke-width=\"1.5\" "
                   "stroke-dasharray=\"6 3\"/><text x=\"{4}\" y=\"{5:.2f}\" fill=\"{3}\">{6} {7}</text>\n",
                   kLeft, kLeft + kWidth, y(bytes), colour, kLeft + kWidth + 6, y(bytes) + 4, name,
                   format_bytes(bytes));
  }

  // Where backward and the update begin, in nodes.
  void mark(std::string_view name, std::size_t node, std::size_t nodes) {
    const double x = kLeft + kWidth * static_cast<double>(node) / static_cast<double>(nodes);
    fmt::format_to(std::back_inserter(svg_),
                   "<line x1=\"{0:.2f}\" x2=\"{0:.2f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#808080\"/>"
                   "<text x=\"{3:.2f}\" y=\"{4}\" fill=\"#606060\">{5}</text>\n",
                   x, kTop, kTop + kHeight + 14, x + 3, kTop + kHeight + 14, name);
  }

  std::string document(const std::string& title) const {
    const double width = kLeft + kWidth + kRight, height = kTop + kHeight + kBottom;
    return fmt::format(
        R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" )"
        R"(font-family="sans-serif" font-size="11">)"
        "\n<title>{2}</title>\n"
        R"(<rect width="100%" height="100%" fill="#ffffff"/><text x="{3}" y="24" font-size="14">{2}</text>)"
        "\n{4}{5}</svg>\n",
        width, height, title, kLeft, svg_, legend_);
  }

 private:
  double y(std::int64_t bytes) const { return kTop + kHeight - scale_ * static_cast<double>(bytes); }

  double scale_, legend_x_ = kLeft;
  std::string svg_, legend_;
};

}  // namespace

std::string memory_svg(const MemoryPlan& plan, std::string_view program, const MemoryLimits& limits) {
  const ProgramLayout& layout = plan.program(program);
  const std::size_t nodes = layout.live_class_bytes.size();
  const std::vector<Band> bands = bands_of(plan, layout, limits);
  const std::int64_t planned = plan.total_bytes + limits.outside_bytes;
  Chart chart(top_of(bands, planned, limits));
  std::vector<std::int64_t> base(nodes, 0);
  for (const Band& b : bands) chart.band(b, base);
  if (layout.backward_begin < nodes) chart.mark("backward", layout.backward_begin, nodes);
  if (layout.update_begin < nodes) chart.mark("update", layout.update_begin, nodes);
  chart.line("planned", planned, "#303030");
  if (limits.budget_bytes > 0) chart.line("budget", limits.budget_bytes, "#c03030");
  return chart.document(
      fmt::format("Memory of a rank over one step: {} of {} nodes, peak at {}", program, nodes, layout.peak_node));
}

}  // namespace plimsoll
