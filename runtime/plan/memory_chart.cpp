#include "runtime/plan/memory_chart.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <optional>

#include "runtime/core/text.hpp"
#include "runtime/plan/gantt.hpp"

namespace plimsoll {
namespace {

constexpr double kLeft = kChartLeft, kTop = 40, kWidth = kChartWidth, kHeight = 460, kBottom = 60,
                 kRight = 150;  // SVG units
constexpr std::array<std::string_view, kMemoryClassNames.size()> kColours{
    "#4878a8", "#6fa8dc", "#9fc5e8", "#8fbf88", "#f0c878", "#d98880", "#b8a0d0", "#90c8c0", "#c8b090", "#a0a8b8"};
constexpr std::string_view kOutsideColour = "#c8c8c8";

struct Band {
  std::string_view name, colour;
  std::vector<std::int64_t> bytes;  // by sample
};

// From the bottom up; bands without a byte are left out.
std::vector<Band> bands_of(const MemoryPlan& plan, const std::vector<MemorySample>& samples,
                           const MemoryLimits& limits) {
  std::vector<Band> bands{{"outside the arena", kOutsideColour, std::vector(samples.size(), limits.outside_bytes)}};
  for (std::size_t c = 0; c < kMemoryClassNames.size(); ++c) {
    std::int64_t persistent = 0;
    for (const PersistentRegion& r : plan.persistent) {
      if (static_cast<std::size_t>(r.memory) == c) persistent += r.bytes;
    }
    Band band{kMemoryClassNames[c], kColours[c], {}};
    for (const MemorySample& sample : samples) band.bytes.push_back(persistent + sample.bytes[c]);
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
  // `edges_s`: where each sample begins, and the end of the step.
  Chart(double top_bytes, std::vector<double> edges_s) : scale_(kHeight / top_bytes), edges_s_(std::move(edges_s)) {}

  // Stairs: a sample's bytes over its time. `base` rises by the band.
  void band(const Band& band, std::vector<std::int64_t>& base) {
    const auto edge = [&](std::size_t n) { return kLeft + kWidth * edges_s_[n] / std::max(edges_s_.back(), 1e-30); };
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
    // Labels of lines that lie close to each other stay apart.
    constexpr double kLabelHeight = 13;
    double label = y(bytes) + 4;
    if (label_y_ && std::abs(label - *label_y_) < kLabelHeight)
      label = *label_y_ + (label > *label_y_ ? kLabelHeight : -kLabelHeight);
    label_y_ = label;
    fmt::format_to(std::back_inserter(svg_),
                   "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.2f}\" y2=\"{2:.2f}\" stroke=\"{3}\" stroke-width=\"1.5\" "
                   "stroke-dasharray=\"6 3\"/><text x=\"{4}\" y=\"{5:.2f}\" fill=\"{3}\">{6} {7}</text>\n",
                   kLeft, kLeft + kWidth, y(bytes), colour, kLeft + kWidth + 6, label, name, format_bytes(bytes));
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
  std::optional<double> label_y_;  // of the line before
  std::vector<double> edges_s_;
  std::string svg_, legend_;
};

// Plays the actions of a stage over what a pass of the program holds.
class Sampler {
 public:
  Sampler(const ProgramLayout& layout, const StepOfRank& step)
      : layout_(layout),
        step_(step),
        graph_(*step.graph),
        slot_bytes_(layout.slots.size()),
        taken_(layout.slots.size()) {
    for (ValueId v = 0; v < static_cast<ValueId>(graph_.values.size()); ++v) {
      const std::int64_t at = layout.value_offset[static_cast<std::size_t>(v)];
      if (graph_.root(v) != v || graph_[v].persistent || graph_[v].host || at < 0) continue;
      for (std::size_t c = 0; c < layout.slots.size(); ++c) {
        const SlotRegion& slots = layout.slots[c];
        if (at < slots.offset || at >= slots.offset + slots.bytes) continue;
        slot_bytes_[c][static_cast<std::size_t>(graph_[v].memory)] += graph_[v].spec.bytes();
      }
    }
  }

  std::vector<MemorySample> all() {
    const std::vector<TimedAction>& actions = step_.timeline->stages[static_cast<std::size_t>(step_.stage)];
    double now = 0;
    for (const TimedAction& timed : actions) {
      if (timed.start_s > now) add_idle(now);
      const Action& a = timed.action;
      if (a.kind == ActionKind::Forward && !taken_.empty()) ++taken_[static_cast<std::size_t>(a.chunk)];
      const Graph::Section section = a.kind == ActionKind::Forward ? Graph::Section::Forward : Graph::Section::Backward;
      add_nodes(timed.start_s, timed.end_s, [&](std::size_t n) {
        const bool half = a.kind == ActionKind::Forward || a.kind == ActionKind::Backward ||
                          graph_.nodes[n].late == (a.kind == ActionKind::WeightGrad);
        return graph_.section(n) == section && graph_.nodes[n].chunk == a.chunk && half;
      });
      if (!taken_.empty() && (a.kind == ActionKind::Backward || a.kind == ActionKind::WeightGrad))
        --taken_[static_cast<std::size_t>(a.chunk)];
      now = timed.end_s;
    }
    add_nodes(now, step_.timeline->step_s, [&](std::size_t n) { return graph_.section(n) == Graph::Section::Update; });
    return std::move(samples_);
  }

 private:
  // What is live at a node, with the slots that are in use now and no others.
  ClassBytes live_at(std::size_t node) const {
    ClassBytes live = layout_.live_class_bytes[node];
    for (std::size_t c = 0; c < slot_bytes_.size(); ++c) {
      const std::int64_t free = layout_.slots[c].count - taken_[c];
      for (std::size_t m = 0; m < live.size(); ++m) live[m] -= free * slot_bytes_[c][m];
    }
    return live;
  }

  // A stage waits with what its slots have. Without slots the last node has left what is live.
  void add_idle(double begin_s) {
    if (slot_bytes_.empty()) return;
    ClassBytes live{};
    for (std::size_t c = 0; c < slot_bytes_.size(); ++c) {
      for (std::size_t m = 0; m < live.size(); ++m) live[m] += taken_[c] * slot_bytes_[c][m];
    }
    samples_.push_back({begin_s, live});
  }

  template <class Runs>
  void add_nodes(double begin_s, double end_s, Runs runs) {
    std::vector<std::size_t> nodes;
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      if (runs(n)) nodes.push_back(n);
    }
    const std::size_t columns = std::min(nodes.size(), kColumnsOfAction);
    for (std::size_t k = 0; k < columns; ++k) {
      ClassBytes most{};
      std::int64_t most_sum = -1;
      for (std::size_t i = k * nodes.size() / columns; i < (k + 1) * nodes.size() / columns; ++i) {
        const ClassBytes live = live_at(nodes[i]);
        const std::int64_t sum = std::accumulate(live.begin(), live.end(), std::int64_t{0});
        if (sum <= most_sum) continue;
        most = live;
        most_sum = sum;
      }
      const double part = static_cast<double>(k) / static_cast<double>(columns);
      samples_.push_back({begin_s + part * (end_s - begin_s), most});
    }
  }

  static constexpr std::size_t kColumnsOfAction = 48;
  const ProgramLayout& layout_;
  const StepOfRank& step_;
  const Graph& graph_;
  std::vector<ClassBytes> slot_bytes_;  // of one slot, by chunk
  std::vector<std::int64_t> taken_;     // slots in use, by chunk
  std::vector<MemorySample> samples_;
};

}  // namespace

std::vector<MemorySample> memory_samples(const ProgramLayout& layout, const StepOfRank& step) {
  return Sampler(layout, step).all();
}

std::string memory_svg(const MemoryPlan& plan, std::string_view program, const StepOfRank& step,
                       const MemoryLimits& limits) {
  const ProgramLayout& layout = plan.program(program);
  const std::vector<MemorySample> samples = memory_samples(layout, step);
  const std::vector<Band> bands = bands_of(plan, samples, limits);
  const std::int64_t planned = plan.total_bytes + limits.outside_bytes;
  std::vector<double> edges_s;
  for (const MemorySample& sample : samples) edges_s.push_back(sample.begin_s);
  edges_s.push_back(step.timeline->step_s);
  Chart chart(top_of(bands, planned, limits), std::move(edges_s));
  std::vector<std::int64_t> base(samples.size(), 0);
  for (const Band& b : bands) chart.band(b, base);
  chart.line("planned", planned, "#303030");
  if (limits.budget_bytes > 0) chart.line("budget", limits.budget_bytes, "#c03030");
  return chart.document(fmt::format("Memory of a rank of stage {} over one step of {:.6g} s, peak at {}", step.stage,
                                    step.timeline->step_s, layout.peak_node));
}

std::string step_svg(const MemoryPlan& plan, std::string_view program, const StepOfRank& step,
                     const MemoryLimits& limits) {
  const std::string gantt = gantt_svg(*step.timeline), memory = memory_svg(plan, program, step, limits);
  const auto size_of = [](const std::string& svg, std::string_view side) {
    const std::string key = fmt::format(" {}=\"", side);
    return std::stod(svg.substr(svg.find(key) + key.size()));
  };
  const double above = size_of(gantt, "height");
  const double width = std::max(size_of(gantt, "width"), size_of(memory, "width"));
  const double height = above + size_of(memory, "height");
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n"
      "<title>A step: what stages do, and the memory of a rank</title>\n{2}<svg y=\"{3}\" {4}</svg>\n",
      width, height, gantt, above, memory.substr(std::string_view("<svg ").size()));
}

}  // namespace plimsoll
