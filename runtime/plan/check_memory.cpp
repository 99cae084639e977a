// The plan replayed in the order in which a run takes: node by node, or action by action of a pipeline's schedule.

#include <algorithm>

#include "runtime/plan/memory.hpp"
#include "runtime/plan/replay.hpp"

namespace plimsoll {
namespace {

// One pass over some nodes for one micro-batch.
struct Pass {
  Graph::Section section;
  int chunk = -1;  // -1: all
  int micro_batch = 0, slot = 0;
  bool first_half = true, second_half = true;
};

std::vector<Pass> passes_of(const Program& program) {
  using enum Graph::Section;
  std::vector<Pass> passes;
  if (program.schedule == nullptr) {
    const auto chunks = static_cast<int>(std::max<std::size_t>(1, program.graph->pieces.size()));
    for (int c = 0; c < chunks; ++c) passes.push_back({Forward, c});
    passes.push_back({Backward});
    passes.push_back({Update});
    return passes;
  }
  for (const Action& a : program.schedule->actions[static_cast<std::size_t>(program.stage)]) {
    passes.push_back({a.kind == ActionKind::Forward ? Forward : Backward, a.chunk, a.micro_batch, a.slot,
                      a.kind != ActionKind::WeightGrad, a.kind != ActionKind::InputGrad});
  }
  passes.push_back({Update});
  return passes;
}

class Trace {
 public:
  // Of the step region, or of the host arena.
  Trace(const Program& program, const MemoryPlan& plan, bool host)
      : graph_(*program.graph),
        layout_(plan.program(program.name)),
        slots_(host ? layout_.host_slots : layout_.slots),
        host_(host),
        begin_(host ? 0 : plan.persistent_bytes) {
    for (const Pass& pass : passes_of(program)) add(pass);
  }
  std::optional<std::string> check() const {
    return replay(placed_, accesses_, host_ ? layout_.host_bytes : layout_.step_bytes);
  }

 private:
  void add(const Pass& pass) {
    ++pass_;
    outside(pass, true);
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      const Node& node = graph_.nodes[n];
      const bool runs = graph_.section(n) == pass.section && (pass.chunk < 0 || node.chunk == pass.chunk) &&
                        (node.late ? pass.second_half : pass.first_half);
      if (!runs) continue;
      for_each_access(graph_, node, [&](const MemoryAccess& a) {
        const ValueId root = graph_.root(a.value);
        if (!graph_[root].persistent && graph_[root].host == host_) touch(root, pass, a.reads, a.writes);
      });
      if (layout_.workspace_bytes[n] > 0 && !host_)
        place("workspace of " + node.label, layout_.workspace_bytes[n], layout_.workspace_offset[n]);
      ++now_;
    }
    outside(pass, false);
  }

  void outside(const Pass& pass, bool writes) {
    for (const OutsideUse& use : outside_uses(graph_)) {
      if (use.section != pass.section || use.writes != writes || (pass.chunk >= 0 && use.chunk != pass.chunk)) continue;
      if (pass.first_half && !host_) touch(use.value, pass, !writes, writes);
    }
    ++now_;
  }

  int place(std::string name, std::int64_t bytes, std::int64_t offset) {
    placed_.push_back({std::move(name), bytes, now_, now_, offset - begin_});
    return static_cast<int>(placed_.size()) - 1;
  }

  // A value is another one for each micro-batch where it lies in a slot, and else for each pass.
  void touch(ValueId root, const Pass& pass, bool reads, bool writes) {
    const auto at = static_cast<std::size_t>(root);
    const bool lasts = slots_.empty() || in_slot(layout_.value_offset[at]);
    const auto key = std::pair(root, lasts ? pass.micro_batch : -pass_);
    auto found = item_of_.find(key);
    if (found == item_of_.end()) {
      const int item =
          place(fmt::format("{} (micro-batch {})", graph_[root].name, pass.micro_batch), graph_[root].spec.bytes(),
                layout_.value_offset[at] + pass.slot * layout_.value_stride[at]);
      found = item_of_.emplace(key, item).first;
    }
    PlacedItem& item = placed_[static_cast<std::size_t>(found->second)];
    item.last = std::max(item.last, now_);
    if (reads) accesses_.push_back({now_, found->second, AccessKind::Read});
    if (writes) accesses_.push_back({now_, found->second, AccessKind::Write});
  }

  bool in_slot(std::int64_t offset) const {
    return std::any_of(slots_.begin(), slots_.end(), [&](const SlotRegion& r) {
      return offset >= r.offset && offset < r.offset + r.count * r.bytes;
    });
  }

  const Graph& graph_;
  const ProgramLayout& layout_;
  const std::vector<SlotRegion>& slots_;
  bool host_;
  std::int64_t begin_;
  int now_ = 0, pass_ = 0;
  std::map<std::pair<ValueId, int>, int> item_of_;
  std::vector<PlacedItem> placed_;
  std::vector<Access> accesses_;
};

}  // namespace

std::optional<std::string> check_memory(std::span<const Program> programs, const MemoryPlan& plan) {
  std::int64_t peak = 0, host_peak = 0;
  for (const Program& program : programs) {
    if (auto bad = Trace(program, plan, false).check()) return fmt::format("{}: {}", program.name, *bad);
    if (auto bad = Trace(program, plan, true).check()) return fmt::format("{}, in host memory: {}", program.name, *bad);
    peak = std::max(peak, plan.persistent_bytes + plan.program(program.name).step_bytes);
    host_peak = std::max(host_peak, plan.program(program.name).host_bytes);
  }
  if (!programs.empty() && peak != plan.total_bytes)
    return fmt::format("the peak is {}, the plan says {}", peak, plan.total_bytes);
  if (host_peak != plan.host_bytes)
    return fmt::format("the peak in host memory is {}, the plan says {}", host_peak, plan.host_bytes);
  return std::nullopt;
}

}  // namespace plimsoll
