#include "runtime/plan/memory.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/plan/offsets.hpp"
#include "runtime/plan/replay.hpp"

namespace plimsoll {
namespace {

std::int64_t align_up(std::int64_t n) { return (n + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

// A value or workspace with its life on the order of the nodes.
struct Item {
  ValueId value = kNoValue;
  std::ptrdiff_t workspace_of = -1;
  Lifetime life{};
};

// Lifetimes of everything that is not persistent, in the order of the nodes on both streams: the executor makes a node
// wait for the other stream where their bytes meet.
std::vector<Item> collect_items(const Graph& graph, const std::vector<std::int64_t>& workspaces) {
  std::vector<Item> items;
  std::vector<std::ptrdiff_t> item_of(graph.values.size(), -1);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const auto now = static_cast<int>(n);
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      const ValueId root = graph.root(a.value);
      if (graph[root].persistent) return;
      std::ptrdiff_t& at = item_of[static_cast<std::size_t>(root)];
      if (at < 0) {
        at = static_cast<std::ptrdiff_t>(items.size());
        items.push_back({root, -1, {graph[root].spec.bytes(), now, now}});
      }
      items[static_cast<std::size_t>(at)].life.last = now;
    });
    if (workspaces[n] > 0) {
      items.push_back({kNoValue, static_cast<std::ptrdiff_t>(n), {workspaces[n], now, now}});
    }
  }
  return items;
}

std::string describe_node(const Graph& graph, std::size_t n) {
  const Node& node = graph.nodes[n];
  return fmt::format("{} {} '{}'", op_info(node.op).name, phase_name(node.phase), node.label);
}

LiveItem describe_item(const Graph& graph, const Item& item) {
  const auto maker = static_cast<std::size_t>(item.life.first);
  if (item.value != kNoValue) {
    const Value& v = graph[item.value];
    return {v.name, v.memory, v.layer, item.life.bytes, describe_node(graph, maker)};
  }
  return {"workspace of " + graph.nodes[maker].label, MemoryClass::Workspace, graph.nodes[maker].layer, item.life.bytes,
          describe_node(graph, maker)};
}

void describe_peak(const Graph& graph, std::span<const Item> items, ProgramLayout& layout) {
  std::vector<std::int64_t> change(graph.nodes.size() + 1, 0);
  for (const Item& i : items) {
    change[static_cast<std::size_t>(i.life.first)] += align_up(i.life.bytes);
    change[static_cast<std::size_t>(i.life.last) + 1] -= align_up(i.life.bytes);
  }
  std::int64_t live = 0, most = -1;
  int peak = 0;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    live += change[n];
    if (live > most) {
      most = live;
      peak = static_cast<int>(n);
    }
  }
  if (graph.nodes.empty()) return;
  layout.peak_node = describe_node(graph, static_cast<std::size_t>(peak));
  for (const Item& i : items) {
    if (i.life.first > peak || i.life.last < peak) continue;
    layout.peak_items.push_back(describe_item(graph, i));
    layout.peak_class_bytes[static_cast<std::size_t>(layout.peak_items.back().memory)] += i.life.bytes;
  }
  std::stable_sort(layout.peak_items.begin(), layout.peak_items.end(),
                   [](const LiveItem& a, const LiveItem& b) { return a.bytes > b.bytes; });
}

ProgramLayout lay_out(const Program& program, const MemoryPlan& plan, int threads) {
  const Graph& graph = *program.graph;
  ProgramLayout layout;
  layout.name = program.name;
  layout.value_offset.assign(graph.values.size(), -1);
  layout.workspace_offset.assign(graph.nodes.size(), -1);
  for (const Node& node : graph.nodes) {
    layout.workspace_bytes.push_back(op_info(node.op).workspace_bytes(node.attrs, node.specs, node.phase, threads));
  }
  const std::vector<Item> items = collect_items(graph, layout.workspace_bytes);
  std::vector<Lifetime> lives;
  for (const Item& i : items) lives.push_back(i.life);
  const Offsets offsets = assign_offsets(lives, {.alignment = kArenaAlignment});
  layout.step_bytes = offsets.peak_bytes;
  layout.max_live_bytes = offsets.max_live_bytes;
  layout.method = offsets.method;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t at = plan.persistent_bytes + offsets.offset[i];
    if (items[i].value != kNoValue) {
      layout.value_offset[static_cast<std::size_t>(items[i].value)] = at;
    } else {
      layout.workspace_offset[static_cast<std::size_t>(items[i].workspace_of)] = at;
    }
  }
  for (ValueId v = 0; v < static_cast<ValueId>(graph.values.size()); ++v) {
    const ValueId root = graph.root(v);
    std::int64_t& at = layout.value_offset[static_cast<std::size_t>(v)];
    if (graph[root].persistent) {
      at = plan.region(graph[root].name).offset + graph.offset_in_root(v);
    } else if (v != root && layout.value_offset[static_cast<std::size_t>(root)] >= 0) {
      at = layout.value_offset[static_cast<std::size_t>(root)] + graph.offset_in_root(v);
    }
  }
  describe_peak(graph, items, layout);
  return layout;
}

// The union of the programs' persistent values, by class and then first appearance.
void place_persistent(std::span<const Program> programs, MemoryPlan& plan) {
  for (const Program& program : programs) {
    for (const Value& v : program.graph->values) {
      if (!v.persistent || v.base != kNoValue) continue;
      const auto same = std::find_if(plan.persistent.begin(), plan.persistent.end(),
                                     [&](const PersistentRegion& r) { return r.name == v.name; });
      if (same == plan.persistent.end()) {
        plan.persistent.push_back({v.name, v.memory, 0, v.spec.bytes()});
      } else {
        require(same->bytes == v.spec.bytes(), ErrorKind::Internal, "programs disagree about '{}': {} and {} bytes",
                v.name, same->bytes, v.spec.bytes());
      }
    }
  }
  std::stable_sort(plan.persistent.begin(), plan.persistent.end(),
                   [](const PersistentRegion& a, const PersistentRegion& b) { return a.memory < b.memory; });
  plan.outputs_offset = align_up(sizeof(StepInputs));
  std::int64_t at = plan.outputs_offset + align_up(sizeof(StepOutputs));
  for (PersistentRegion& r : plan.persistent) {
    r.offset = at;
    at += align_up(r.bytes);
  }
  plan.persistent_bytes = at;
}

}  // namespace

const ProgramLayout& MemoryPlan::program(std::string_view name) const {
  for (const ProgramLayout& p : programs) {
    if (p.name == name) return p;
  }
  fail(ErrorKind::Internal, "the plan has no program '{}'", name);
}

const PersistentRegion& MemoryPlan::region(std::string_view name) const {
  for (const PersistentRegion& r : persistent) {
    if (r.name == name) return r;
  }
  fail(ErrorKind::Internal, "the plan has no persistent value '{}'", name);
}

MemoryPlan plan_memory(std::span<const Program> programs, int threads) {
  MemoryPlan plan;
  place_persistent(programs, plan);
  const ProgramLayout* largest = nullptr;
  for (const Program& program : programs) plan.programs.push_back(lay_out(program, plan, threads));
  for (const ProgramLayout& p : plan.programs) {
    if (largest == nullptr || p.step_bytes > largest->step_bytes) largest = &p;
  }
  if (largest != nullptr) plan.class_bytes = largest->peak_class_bytes;
  for (const PersistentRegion& r : plan.persistent) plan.class_bytes[static_cast<std::size_t>(r.memory)] += r.bytes;
  plan.total_bytes = plan.persistent_bytes + (largest != nullptr ? largest->step_bytes : 0);
  plan.padding_bytes =
      plan.total_bytes - std::accumulate(plan.class_bytes.begin(), plan.class_bytes.end(), std::int64_t{0});
  return plan;
}

std::optional<std::string> check_memory(std::span<const Program> programs, const MemoryPlan& plan) {
  std::int64_t peak = 0;
  for (const Program& program : programs) {
    const Graph& graph = *program.graph;
    const ProgramLayout& layout = plan.program(program.name);
    const int end = static_cast<int>(graph.nodes.size());
    std::vector<PlacedItem> placed;
    std::vector<Access> accesses;
    std::vector<int> item_of(graph.values.size(), -1);
    const auto add_item = [&](std::string name, std::int64_t bytes, std::int64_t offset) {
      placed.push_back({std::move(name), bytes, end, -1, offset});
      return static_cast<int>(placed.size() - 1);
    };
    const auto touch = [&](int item, int n) {
      PlacedItem& p = placed[static_cast<std::size_t>(item)];
      p.first = std::min(p.first, n);
      p.last = std::max(p.last, n);
    };
    for (int n = 0; n < end; ++n) {
      const auto at = static_cast<std::size_t>(n);
      for_each_access(graph, graph.nodes[at], [&](const MemoryAccess& a) {
        const ValueId root = graph.root(a.value);
        if (graph[root].persistent) return;
        int& item = item_of[static_cast<std::size_t>(root)];
        if (item < 0) {
          item = add_item(graph[root].name, graph[root].spec.bytes(),
                          layout.value_offset[static_cast<std::size_t>(root)] - plan.persistent_bytes);
        }
        touch(item, n);
        if (a.reads) accesses.push_back({n, item, AccessKind::Read});
        if (a.writes) accesses.push_back({n, item, AccessKind::Write});
      });
      if (layout.workspace_bytes[at] == 0) continue;
      touch(add_item("workspace of " + graph.nodes[at].label, layout.workspace_bytes[at],
                     layout.workspace_offset[at] - plan.persistent_bytes),
            n);
    }
    if (auto bad = replay(placed, accesses, layout.step_bytes)) return fmt::format("{}: {}", program.name, *bad);
    peak = std::max(peak, plan.persistent_bytes + layout.step_bytes);
  }
  if (!programs.empty() && peak != plan.total_bytes)
    return fmt::format("the peak is {}, the plan says {}", peak, plan.total_bytes);
  return std::nullopt;
}

}  // namespace plimsoll
