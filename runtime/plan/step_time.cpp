#include "runtime/plan/step_time.hpp"

#include <algorithm>

#include "runtime/exec/messages.hpp"

namespace plimsoll {
namespace {

// Micro-batches in the middle are alike: the last of these tells what each further one adds.
constexpr std::int64_t kMostPlayed = 4;

bool runs_in(const Node& node, Variant variant) { return (node.when & static_cast<std::uint8_t>(variant)) != 0; }

std::int64_t runs_of(const Node& node, Graph::Section section, std::int64_t micro_batches) {
  if (section == Graph::Section::Update) return 1;
  if (micro_batches == 1) return runs_in(node, Variant::Only) ? 1 : 0;
  return (runs_in(node, Variant::First) ? 1 : 0) + (runs_in(node, Variant::Last) ? 1 : 0) +
         (runs_in(node, Variant::Middle) ? micro_batches - 2 : 0);
}

// `own` seconds of work of which messages take the share `slows` for the next `busy` seconds.
double beside(double own, double busy, double slows) {
  if (slows == 0 || busy <= 0) return own;
  const double done = busy * (1 - slows);
  return own < done ? own / (1 - slows) : own + busy - done;
}

}  // namespace

StepClock::StepClock(const Graph& graph, const CostModel& costs, const AxisStrides& strides)
    : graph_(graph),
      segments_(graph),
      memory_(graph),
      own_(graph.nodes.size()),
      wire_(graph.nodes.size(), 0),
      slows_(graph.nodes.size(), 0),
      axis_(graph.nodes.size()) {
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) own_[n] = costs.node_seconds(graph, graph.nodes[n]);
  for (const CollectiveCall& call : collectives(graph)) {
    wire_[call.node] += costs.collective_seconds(call.kind, call.paced_bytes(), call.ranks, strides(call.axis));
    axis_[call.node] = call.axis;
    slows_[call.node] = costs.collective_slows(call.kind, call.ranks, strides(call.axis));
  }
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (graph.nodes[n].stream == StreamKind::Compute) continue;
    joins_ = joins_ || graph.section(n) == Graph::Section::Update;
    for_each_access(graph, graph.nodes[n],
                    [&](const MemoryAccess& a) { joins_ = joins_ || !graph[graph.root(a.value)].persistent; });
  }
}

StepClock::State StepClock::start() const {
  return {{}, std::vector<double>(segments_.count(), 0), std::vector<double>(segments_.count(), 0), {}};
}

void StepClock::join(State& s) const {
  if (joins_) s.stream.fill(s.now());
}

void StepClock::play(State& s, Graph::Section section, Variant variant, int chunk, Half half) const {
  CopyMemory memory = memory_;
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    const Node& node = graph_.nodes[n];
    if (graph_.section(n) != section || node.chunk != chunk || !runs_in(node, variant)) continue;
    if (half != Half::Both && node.late != (half == Half::Second)) continue;
    double begin = memory.free_at(n);
    for_each_access(graph_, node, [&](const MemoryAccess& a) {
      const auto [first, last] = segments_.of(a.value);
      for (std::size_t i = first; i < last; ++i) begin = std::max(begin, a.writes ? s.used[i] : s.written[i]);
    });
    double& stream = s.stream[static_cast<std::size_t>(node.stream)];
    begin = std::max(begin, stream);
    double own = own_[n];
    if (communicates(node.stream)) {
      s.slows[static_cast<std::size_t>(node.stream)] = slows_[n];
    } else if (node.stream == StreamKind::Compute) {
      for (std::size_t i = 0; i < kStreamKinds; ++i) own = beside(own, s.stream[i] - begin, s.slows[i]);
    }
    stream = begin + own + wire_[n];
    memory.ends(n, stream);
    for_each_access(graph_, node, [&](const MemoryAccess& a) {
      const auto [first, last] = segments_.of(a.value);
      for (std::size_t i = first; i < last; ++i) {
        s.used[i] = std::max(s.used[i], stream);
        if (a.writes) s.written[i] = stream;
      }
    });
  }
  join(s);
}

double StepClock::step_seconds(std::int64_t micro_batches) const { return play_step(micro_batches, nullptr); }

std::vector<TimedAction> StepClock::actions(std::int64_t micro_batches) const {
  std::vector<TimedAction> actions;
  play_step(micro_batches, &actions);
  return actions;
}

double StepClock::play_step(std::int64_t micro_batches, std::vector<TimedAction>* actions) const {
  State state = start();
  const std::int64_t played = std::min(micro_batches, kMostPlayed), skipped = micro_batches - played;
  double middle = 0;
  const auto add = [&](std::int64_t m, double begin, double turn, double end, double shift) {
    if (actions == nullptr) return;
    const int number = static_cast<int>(m);
    actions->push_back({{ActionKind::Forward, 0, number, 0}, begin + shift, turn + shift});
    actions->push_back({{ActionKind::Backward, 0, number, 0}, turn + shift, end + shift});
  };
  for (std::int64_t m = 0; m < played; ++m) {
    const double before = state.now();
    play(state, Graph::Section::Forward, Variant::Only, 0, Half::Both);
    const double turn = state.now();
    play(state, Graph::Section::Backward,
         played == 1       ? Variant::Only
         : m == 0          ? Variant::First
         : m + 1 == played ? Variant::Last
                           : Variant::Middle,
         0, Half::Both);
    const bool after_skipped = m > 0 && m + 1 == played;
    add(after_skipped ? m + skipped : m, before, turn, state.now(),
        after_skipped ? static_cast<double>(skipped) * middle : 0);
    if (m + 2 != played) continue;
    middle = state.now() - before;
    for (std::int64_t k = 1; k <= skipped; ++k) add(m + k, before, turn, state.now(), static_cast<double>(k) * middle);
  }
  play(state, Graph::Section::Update, Variant::Only, 0, Half::Both);
  return state.now() + static_cast<double>(skipped) * middle;
}

StepClock::Piece StepClock::piece_seconds(int chunk, Variant variant) const {
  State state = start();
  Piece piece;
  play(state, Graph::Section::Forward, variant, chunk, Half::Both);
  piece.forward_s = state.now();
  if (graph_.message_parts > 1 && graph_.pieces[static_cast<std::size_t>(chunk)].output != kNoValue) {
    const std::vector<std::size_t> made = output_parts(graph_, chunk);
    // The product of the first part stands before its sum.
    for (std::size_t n = made.front() - 1; n <= made.back(); ++n) piece.product_s += own_[n];
  }
  play(state, Graph::Section::Backward, variant, chunk, Half::First);
  piece.first_half_s = state.now() - piece.forward_s;
  play(state, Graph::Section::Backward, variant, chunk, Half::Second);
  piece.second_half_s = state.now() - piece.forward_s - piece.first_half_s;
  return piece;
}

double StepClock::update_seconds() const {
  State state = start();
  play(state, Graph::Section::Update, Variant::Only, 0, Half::Both);
  return state.now();
}

StepClock::Work StepClock::work(std::int64_t micro_batches) const {
  Work work;
  double forward = 0, backward = 0;
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    const Graph::Section section = graph_.section(n);
    const auto runs = static_cast<double>(runs_of(graph_.nodes[n], section, micro_batches));
    if (graph_.nodes[n].stream != StreamKind::Compute) {
      if (!axis_[n].empty()) work.collective_s[axis_[n]] += runs * wire_[n];
    } else {
      (section == Graph::Section::Forward    ? forward
       : section == Graph::Section::Backward ? backward
                                             : work.update_s) += runs * (own_[n] + wire_[n]);
      if (graph_.nodes[n].again) work.recompute_s += runs * (own_[n] + wire_[n]);
    }
  }
  work.forward_s = forward / static_cast<double>(micro_batches);
  work.backward_s = backward / static_cast<double>(micro_batches);
  work.recompute_s /= static_cast<double>(micro_batches);
  return work;
}

}  // namespace plimsoll
