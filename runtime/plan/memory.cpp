#include "runtime/plan/memory.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/plan/in_flight.hpp"
#include "runtime/plan/offsets.hpp"
#include "runtime/tensor/checked_size.hpp"

namespace plimsoll {
namespace {

std::int64_t align_up(std::int64_t n) { return (n + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

// A value or workspace with its life on the order of the nodes.
struct Item {
  ValueId value = kNoValue;
  std::ptrdiff_t workspace_of = -1;  // of a node, or several that follow each other and never run in the same pass
  Lifetime life{};
  int action = 0;        // the kind of action that touches it, by action_of(); of several, one of them
  bool crosses = false;  // several do
  int nodes = 1;         // of a workspace
};

// What runs at a time in a pipeline: forward, first half and second half of backward of each chunk, and the update.
constexpr int kUpdateAction = -1;
int action_of(const Graph& graph, std::size_t n) {
  const Node& node = graph.nodes[n];
  const Graph::Section section = graph.section(n);
  if (section == Graph::Section::Update) return kUpdateAction;
  return 3 * node.chunk + (section == Graph::Section::Forward ? 0 : node.late ? 2 : 1);
}
int action_of(const OutsideUse& use) { return 3 * use.chunk + (use.section == Graph::Section::Forward ? 0 : 1); }

// The place of an outside use in the order of the nodes: beside the first or the last node of its action.
std::size_t node_beside(const Graph& graph, const OutsideUse& use) {
  std::size_t found = graph.nodes.size();
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (action_of(graph, n) != action_of(use) || (use.writes && found < graph.nodes.size())) continue;
    found = n;
  }
  require(found < graph.nodes.size(), ErrorKind::Internal, "no node runs where '{}' is used", graph[use.value].name);
  return found;
}

bool is_workspace(const Item& item) { return item.workspace_of >= 0; }

// Node `n` runs where those of a workspace right before it do not: in other micro-batches of a step.
bool replaces(const Graph& graph, const Item& workspace, std::size_t n) {
  const auto first = static_cast<std::size_t>(workspace.workspace_of);
  if (first + static_cast<std::size_t>(workspace.nodes) != n) return false;
  return std::all_of(graph.nodes.begin() + static_cast<std::ptrdiff_t>(first),
                     graph.nodes.begin() + static_cast<std::ptrdiff_t>(n),
                     [&](const Node& node) { return (node.when & graph.nodes[n].when) == 0; });
}

// Lifetimes of everything that is not persistent, in the order of the nodes on both streams: the executor makes a node
// wait for the other stream where their bytes meet. So that compute need not, what communication touches lives on while
// it may be under way.
std::vector<Item> collect_items(const Graph& graph, const std::vector<std::int64_t>& workspaces) {
  std::vector<Item> items;
  std::vector<std::ptrdiff_t> item_of(graph.values.size(), -1);
  const std::vector<std::size_t> until = in_flight_until(graph);
  const auto touch = [&](ValueId root, std::size_t n, std::size_t end, int action) {
    const auto now = static_cast<int>(n), last = static_cast<int>(end);
    std::ptrdiff_t& at = item_of[static_cast<std::size_t>(root)];
    if (at < 0) {
      at = static_cast<std::ptrdiff_t>(items.size());
      items.push_back({root, -1, {graph[root].spec.bytes(), now, last}, action, false});
    }
    Item& item = items[static_cast<std::size_t>(at)];
    item.life.first = std::min(item.life.first, now);
    item.life.last = std::max(item.life.last, last);
    item.crosses = item.crosses || item.action != action;
  };
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const auto now = static_cast<int>(n), last = static_cast<int>(until[n]);
    const int action = action_of(graph, n);
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      const ValueId root = graph.root(a.value);
      if (!graph[root].persistent) touch(root, n, until[n], action);
    });
    if (workspaces[n] == 0) continue;
    const auto before = std::find_if(items.rbegin(), items.rend(), is_workspace);
    if (before != items.rend() && replaces(graph, *before, n)) {
      ++before->nodes;
      before->life.bytes = std::max(before->life.bytes, workspaces[n]);
      before->life.last = std::max(before->life.last, last);
    } else {
      items.push_back({kNoValue, static_cast<std::ptrdiff_t>(n), {workspaces[n], now, last}, action, false});
    }
  }
  for (const OutsideUse& use : outside_uses(graph)) {
    const std::size_t beside = node_beside(graph, use);
    touch(use.value, beside, beside, action_of(use));
  }
  return items;
}

std::string describe_node(const Graph& graph, std::size_t n) {
  const Node& node = graph.nodes[n];
  return fmt::format("{} {} '{}'", op_info(node.op).name, work_name(node), node.label);
}

MemoryClass class_of(const Graph& graph, const Item& item) {
  return item.value != kNoValue ? graph[item.value].memory : MemoryClass::Workspace;
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

// The node where most is live.
int peak_of(const Graph& graph, std::span<const Item> items) {
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
  return peak;
}

// Those of the items that are live at a node, each `copies` times. Returns their bytes.
std::int64_t add_live(const Graph& graph, std::span<const Item> items, int node, int copies,
                      std::vector<LiveItem>& live) {
  std::int64_t bytes = 0;
  for (const Item& i : items) {
    if (i.life.first > node || i.life.last < node) continue;
    LiveItem item = describe_item(graph, i);
    bytes += item.bytes *= copies;
    if (copies > 1) item.name += fmt::format(" in {} slots", copies);
    live.push_back(std::move(item));
  }
  std::stable_sort(live.begin(), live.end(), [](const LiveItem& a, const LiveItem& b) { return a.bytes > b.bytes; });
  return bytes;
}

// Adds the items to what the layout says of its nodes, and those that are live where the most is, to what it says of
// its peak, each `copies` times.
void describe_live(const Graph& graph, std::span<const Item> items, int copies, bool in_slots, ProgramLayout& layout) {
  if (graph.nodes.empty()) return;
  const int peak = peak_of(graph, items);
  std::vector<ClassBytes> change(graph.nodes.size() + 1, ClassBytes{});
  for (const Item& i : items) {
    // A slot that this micro-batch has left is another one's.
    const std::size_t first = in_slots ? 0 : static_cast<std::size_t>(i.life.first);
    const std::size_t last = in_slots ? graph.nodes.size() - 1 : static_cast<std::size_t>(i.life.last);
    const auto memory = static_cast<std::size_t>(class_of(graph, i));
    change[first][memory] += copies * i.life.bytes;
    change[last + 1][memory] -= copies * i.life.bytes;
  }
  ClassBytes live_now{};
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for (std::size_t c = 0; c < live_now.size(); ++c) layout.live_class_bytes[n][c] += live_now[c] += change[n][c];
  }
  layout.peak_node = describe_node(graph, static_cast<std::size_t>(peak));
  std::vector<LiveItem> live;
  add_live(graph, items, peak, copies, live);
  for (const LiveItem& item : live) layout.peak_class_bytes[static_cast<std::size_t>(item.memory)] += item.bytes;
  layout.peak_items.insert(layout.peak_items.end(), live.begin(), live.end());
  std::stable_sort(layout.peak_items.begin(), layout.peak_items.end(),
                   [](const LiveItem& a, const LiveItem& b) { return a.bytes > b.bytes; });
}

void describe_host(const Graph& graph, std::span<const Item> items, int copies, ProgramLayout& layout) {
  layout.offloaded_bytes += add_live(graph, items, peak_of(graph, items), copies, layout.host_items);
}

// Gives items their places from `begin` on; returns the bytes that they take, and adds the least that they could take.
// `most`: where the arena may end, if only that matters, otherwise 0.
std::int64_t place_items(std::span<const Item> items, std::int64_t begin, std::int64_t copies, ProgramLayout& layout,
                         std::int64_t& max_live_bytes, std::int64_t most = 0) {
  std::vector<Lifetime> lives;
  for (const Item& i : items) lives.push_back(i.life);
  OffsetOptions options{.alignment = kArenaAlignment};
  if (most > 0) options.enough = std::max<std::int64_t>(1, most - begin);
  const Offsets offsets = assign_offsets(lives, options);
  const std::int64_t stride = copies > 1 ? align_up(offsets.peak_bytes) : 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t at = begin + offsets.offset[i];
    if (items[i].value != kNoValue) {
      layout.value_offset[static_cast<std::size_t>(items[i].value)] = at;
      layout.value_stride[static_cast<std::size_t>(items[i].value)] = stride;
    } else {
      for (std::ptrdiff_t n = 0; n < items[i].nodes; ++n)
        layout.workspace_offset[static_cast<std::size_t>(items[i].workspace_of + n)] = at;
    }
  }
  max_live_bytes += copies * offsets.max_live_bytes;
  layout.method = offsets.method;
  return offsets.peak_bytes;
}

// The step region of a pipeline with several micro-batches in flight, or several chunks.
void place_in_slots(const Program& program, const MemoryPlan& plan, std::span<const Item> items, std::int64_t most,
                    ProgramLayout& layout) {
  const Graph& graph = *program.graph;
  const std::vector<int>& counts = program.schedule->slots[static_cast<std::size_t>(program.stage)];
  std::vector<Item> scratch;
  std::vector<std::vector<Item>> slots(counts.size());
  for (const Item& item : items) {
    require(!item.crosses || item.action != kUpdateAction, ErrorKind::Internal,
            "'{}' would have to live from backward to the update", graph[item.value].name);
    item.crosses ? slots[static_cast<std::size_t>(item.action / 3)].push_back(item) : scratch.push_back(item);
  }
  std::int64_t at = plan.persistent_bytes;
  for (std::size_t c = 0; c < slots.size(); ++c) {
    SlotRegion region;
    region.count = counts[c];
    region.offset = at;
    region.bytes = align_up(place_items(slots[c], at, region.count, layout, layout.max_live_bytes));
    at += region.count * region.bytes;
    layout.slots.push_back(region);
    describe_live(graph, slots[c], region.count, true, layout);
  }
  layout.step_bytes = at - plan.persistent_bytes + place_items(scratch, at, 1, layout, layout.max_live_bytes, most);
  describe_live(graph, scratch, 1, false, layout);
}

bool needs_slots(const Program& program) {
  if (program.schedule == nullptr) return false;
  const std::vector<int>& slots = program.schedule->slots[static_cast<std::size_t>(program.stage)];
  return slots.size() > 1 || slots.front() > 1;
}

// The host arena. What is offloaded waits from one action for another: with slots, in one.
void place_on_host(const Program& program, std::span<const Item> items, ProgramLayout& layout) {
  const Graph& graph = *program.graph;
  if (!needs_slots(program)) {
    layout.host_bytes = place_items(items, 0, 1, layout, layout.host_max_live_bytes);
    describe_host(graph, items, 1, layout);
    return;
  }
  const std::vector<int>& counts = program.schedule->slots[static_cast<std::size_t>(program.stage)];
  std::int64_t at = 0;
  for (std::size_t c = 0; c < counts.size(); ++c) {
    std::vector<Item> mine;
    for (const Item& item : items) {
      if (item.action / 3 == static_cast<int>(c)) mine.push_back(item);
    }
    const std::int64_t bytes = place_items(mine, at, counts[c], layout, layout.host_max_live_bytes);
    const SlotRegion region{counts[c], at, align_up(bytes)};
    if (bytes > 0) layout.host_bytes = at + (region.count - 1) * region.bytes + bytes;
    at += region.count * region.bytes;
    layout.host_slots.push_back(region);
    describe_host(graph, mine, region.count, layout);
  }
}

// So that no sum of a plan passes 64 bits: all values at once, in all slots, are more than any of them.
void require_countable_sum(const Program& program) {
  int slots = 1;
  if (program.schedule != nullptr) {
    const std::vector<int>& counts = program.schedule->slots[static_cast<std::size_t>(program.stage)];
    slots = *std::max_element(counts.begin(), counts.end());
  }
  std::int64_t sum = 0;
  for (const Value& v : program.graph->values) {
    require_countable(v.spec, v.name);
    if (v.base == kNoValue) sum = capped_bytes(slots, v.spec.bytes(), sum);
  }
  require(
      sum <= kMostBytes, ErrorKind::Config,
      "the values of program '{}' are more than {} bytes together: train.micro_batch, data.sequence or the sizes of "
      "model are too large",
      program.name, kMostBytes);
}

ProgramLayout lay_out(const Program& program, const MemoryPlan& plan, int threads, std::int64_t most) {
  const Graph& graph = *program.graph;
  ProgramLayout layout;
  layout.name = program.name;
  layout.value_offset.assign(graph.values.size(), -1);
  layout.value_stride.assign(graph.values.size(), 0);
  layout.workspace_offset.assign(graph.nodes.size(), -1);
  layout.live_class_bytes.assign(graph.nodes.size(), {});
  layout.backward_begin = std::min(graph.backward_begin, graph.nodes.size());
  layout.update_begin = std::min(graph.update_begin, graph.nodes.size());
  for (const Node& node : graph.nodes) {
    layout.workspace_bytes.push_back(op_info(node.op).workspace_bytes(node.attrs, node.specs, node.phase, threads));
  }
  std::vector<Item> items = collect_items(graph, layout.workspace_bytes);
  const auto on_host = std::stable_partition(
      items.begin(), items.end(), [&](const Item& item) { return item.value == kNoValue || !graph[item.value].host; });
  if (on_host != items.end()) place_on_host(program, {on_host, items.end()}, layout);
  items.erase(on_host, items.end());
  if (needs_slots(program)) {
    place_in_slots(program, plan, items, most, layout);
  } else {
    layout.step_bytes = place_items(items, plan.persistent_bytes, 1, layout, layout.max_live_bytes, most);
    describe_live(graph, items, 1, false, layout);
  }
  for (ValueId v = 0; v < static_cast<ValueId>(graph.values.size()); ++v) {
    const ValueId root = graph.root(v);
    std::int64_t& at = layout.value_offset[static_cast<std::size_t>(v)];
    if (graph[root].persistent) {
      at = plan.region(graph[root].name).offset + graph.offset_in_root(v);
    } else if (v != root && layout.value_offset[static_cast<std::size_t>(root)] >= 0) {
      at = layout.value_offset[static_cast<std::size_t>(root)] + graph.offset_in_root(v);
      layout.value_stride[static_cast<std::size_t>(v)] = layout.value_stride[static_cast<std::size_t>(root)];
    }
  }
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

MemoryPlan plan_memory(std::span<const Program> programs, int threads, std::int64_t enough_bytes) {
  MemoryPlan plan;
  for (const Program& program : programs) require_countable_sum(program);
  place_persistent(programs, plan);
  const ProgramLayout* largest = nullptr;
  for (const Program& program : programs) plan.programs.push_back(lay_out(program, plan, threads, enough_bytes));
  for (const ProgramLayout& p : plan.programs) {
    if (largest == nullptr || p.step_bytes > largest->step_bytes) largest = &p;
  }
  if (largest != nullptr) plan.class_bytes = largest->peak_class_bytes;
  std::int64_t& offloaded = plan.class_bytes[static_cast<std::size_t>(MemoryClass::Offloaded)];
  for (const PersistentRegion& r : plan.persistent) plan.class_bytes[static_cast<std::size_t>(r.memory)] += r.bytes;
  plan.total_bytes = plan.persistent_bytes + (largest != nullptr ? largest->step_bytes : 0);
  plan.padding_bytes =
      plan.total_bytes - std::accumulate(plan.class_bytes.begin(), plan.class_bytes.end(), std::int64_t{0});
  for (const ProgramLayout& p : plan.programs) {
    if (p.host_bytes <= plan.host_bytes) continue;
    plan.host_bytes = p.host_bytes;
    offloaded = p.offloaded_bytes;
  }
  plan.host_padding_bytes = plan.host_bytes - offloaded;
  return plan;
}

}  // namespace plimsoll
