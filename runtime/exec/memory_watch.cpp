#include "runtime/exec/memory_watch.hpp"

#include <algorithm>

#include "runtime/plan/in_flight.hpp"

namespace plimsoll {
namespace {

std::int64_t align_up(std::int64_t n) { return (n + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

constexpr int kTimeline = -1;  // of what lies in no slot

// The slot in which a byte of an arena lies, counted over all chunks.
int part_of(std::span<const SlotRegion> slots, std::int64_t offset) {
  int before = 0;
  for (const SlotRegion& region : slots) {
    if (region.bytes > 0 && offset >= region.offset && offset < region.offset + region.count * region.bytes)
      return before + static_cast<int>((offset - region.offset) / region.bytes);
    before += region.count;
  }
  return kTimeline;
}

void add(ClassBytes& to, const ClassBytes& more) {
  for (std::size_t c = 0; c < to.size(); ++c) to[c] += more[c];
}

}  // namespace

ClassBytes seen_class_bytes(std::span<const SeenMemory> programs) {
  constexpr auto kOffloaded = static_cast<std::size_t>(MemoryClass::Offloaded);
  const SeenMemory *furthest = nullptr, *furthest_on_host = nullptr;
  std::map<std::int64_t, const PersistentRegion*> persistent;  // by place: programs share them
  for (const SeenMemory& program : programs) {
    if (furthest == nullptr || program.end > furthest->end) furthest = &program;
    if (furthest_on_host == nullptr || program.host_end > furthest_on_host->host_end) furthest_on_host = &program;
    for (const PersistentRegion& region : program.persistent) {
      // One of a rank without a shard has no bytes, and lies where the next one begins.
      if (region.bytes > 0) persistent.emplace(region.offset, &region);
    }
  }
  ClassBytes bytes{};
  if (furthest == nullptr) return bytes;
  bytes = furthest->class_bytes;
  bytes[kOffloaded] = furthest_on_host->class_bytes[kOffloaded];
  for (const auto& [offset, region] : persistent) bytes[static_cast<std::size_t>(region->memory)] += region->bytes;
  return bytes;
}

MemoryWatch::MemoryWatch(const Graph& graph, const ProgramLayout& layout, const std::byte* arena,
                         const std::byte* host_arena)
    : graph_(graph), layout_(layout), arena_(arena), host_arena_(host_arena), workspaces_(graph.nodes.size()) {}

MemoryWatch::Key MemoryWatch::touch(ValueId value, const void* data, std::size_t node) {
  const ValueId root = graph_.root(value);
  const Key key{root, static_cast<const std::byte*>(data) - graph_.offset_in_root(value)};
  const auto now = static_cast<std::ptrdiff_t>(node);
  Buffer& buffer = buffers_.try_emplace(key, Buffer{now, now}).first->second;
  buffer.first = std::min(buffer.first, now);
  buffer.last = std::max(buffer.last, now);
  return key;
}

std::vector<MemoryWatch::Bytes> MemoryWatch::touch_all(std::size_t n, const KernelArgs& args,
                                                       std::vector<Key>& buffers) {
  const Node& node = graph_.nodes[n];
  std::vector<bool> writes(graph_.values.size(), false);
  for_each_access(graph_, node, [&](const MemoryAccess& a) {
    if (a.writes) writes[static_cast<std::size_t>(a.value)] = true;
  });
  std::vector<Bytes> bytes;
  const auto handed = [&](const View& view, ValueId value) {
    if (view.data == nullptr) return;
    buffers.push_back(touch(value, view.data, n));
    Buffer& buffer = buffers_.at(buffers.back());
    (graph_.section(n) == Graph::Section::Forward ? buffer.in_forward : buffer.in_later) = true;
    const auto* begin = view.as<const std::byte>();
    bytes.push_back({begin, begin + view.spec.bytes(), writes[static_cast<std::size_t>(value)]});
  };
  for (std::size_t s = 0; s < op_info(node.op).slots.size(); ++s) {
    handed(args.value[s], node.value[s]);
    handed(args.grad[s], node.grad[s]);
  }
  return bytes;
}

void MemoryWatch::begin_run() {
  last_ = -1;
  under_way_.clear();
}

void MemoryWatch::launched(std::size_t n, Variant variant, const KernelArgs& args) {
  const Node& node = graph_.nodes[n];
  for (const auto& given : given_) {
    const ValueId value = given.first;
    const Key key = touch(value, given.second, n);
    // Another stage made it in forward. What the host gives waits for its first reader, and is staged until then.
    const auto received = [&](const PieceEnds& piece) { return piece.input == value; };
    if (std::any_of(graph_.pieces.begin(), graph_.pieces.end(), received)) buffers_.at(key).in_forward = true;
  }
  given_.clear();
  last_ = static_cast<std::ptrdiff_t>(n);
  const bool computes = node.stream == StreamKind::Compute;
  UnderWay mine{n, computes ? n : in_flight_at_most(graph_, n), {}, {}};
  mine.bytes = touch_all(n, args, mine.buffers);
  if (args.workspace != nullptr) {
    Workspace& w = workspaces_[n];
    w.data = args.workspace;
    w.bytes = op_info(node.op).workspace_bytes(*args.attributes, node.specs, node.phase, args.threads);
    w.last = std::max(w.last, last_);
    // Of backward alone: the other sections have one.
    w.variants |= graph_.section(n) == Graph::Section::Backward ? static_cast<std::uint8_t>(variant) : kEveryVariant;
  }
  if (computes)
    end_those_before(n, mine.bytes);
  else
    under_way_.push_back(std::move(mine));
}

// A compute node waits for what touched its bytes on other streams: the node before it was the last beside that.
void MemoryWatch::end_those_before(std::size_t n, const std::vector<Bytes>& bytes) {
  const auto meets = [&](const Bytes& a) {
    return std::any_of(bytes.begin(), bytes.end(),
                       [&](const Bytes& b) { return a.begin < b.end && b.begin < a.end && (a.writes || b.writes); });
  };
  std::erase_if(under_way_, [&](const UnderWay& what) {
    const bool over = std::any_of(what.bytes.begin(), what.bytes.end(), meets);
    if (over) end(what, std::min(n - 1, what.last));
    return over;
  });
}

void MemoryWatch::end(const UnderWay& what, std::size_t last) {
  const auto at = static_cast<std::ptrdiff_t>(last);
  for (const Key& key : what.buffers) {
    Buffer& buffer = buffers_.find(key)->second;
    buffer.last = std::max(buffer.last, at);
  }
  Workspace& workspace = workspaces_[what.node];
  if (workspace.data != nullptr) workspace.last = std::max(workspace.last, at);
}

void MemoryWatch::end_run() {
  for (const UnderWay& what : under_way_) end(what, what.last);
  under_way_.clear();
}

void MemoryWatch::replayed() {
  given_.clear();
  last_ = -1;
}

void MemoryWatch::given_before(ValueId value, const View& memory) { given_.emplace_back(value, memory.data); }

void MemoryWatch::taken_after(ValueId value, const View& memory) {
  if (last_ >= 0) touch(value, memory.data, static_cast<std::size_t>(last_));
}

void MemoryWatch::touched(const View& memory) {
  const std::int64_t at = memory.as<const std::byte>() - arena_;
  for (ValueId v = 0; v < static_cast<ValueId>(graph_.values.size()); ++v) {
    const Value& value = graph_[v];
    const std::int64_t begin = layout_.value_offset[static_cast<std::size_t>(v)];
    if (value.persistent && value.base == kNoValue && at >= begin && at < begin + value.spec.bytes())
      outside_.insert({v, arena_ + begin});
  }
}

MemoryClass MemoryWatch::class_of(ValueId root, const Buffer& buffer) const {
  const Value& value = graph_[root];
  if (value.host) return MemoryClass::Offloaded;
  if (buffer.in_forward && buffer.in_later) return MemoryClass::Activations;
  return value.memory == MemoryClass::Activations ? MemoryClass::Transients : value.memory;
}

// What was in the step region, or in host memory, by part; `end`: of the last byte.
std::map<int, std::vector<MemoryWatch::Live>> MemoryWatch::live_by_part(bool host, std::int64_t& end) const {
  std::map<int, std::vector<Live>> parts;
  const std::byte* arena = host ? host_arena_ : arena_;
  for (const auto& [key, buffer] : buffers_) {
    const Value& value = graph_[key.first];
    if (value.persistent || value.host != host) continue;
    const std::int64_t offset = key.second - arena;
    parts[part_of(host ? layout_.host_slots : layout_.slots, offset)].push_back(
        {buffer.first, buffer.last, value.spec.bytes(), class_of(key.first, buffer)});
    end = std::max(end, offset + value.spec.bytes());
  }
  return parts;
}

// Neighbours that were handed the same bytes, and never in the same pass, have them together.
std::vector<MemoryWatch::Live> MemoryWatch::live_workspaces(std::int64_t& end) const {
  std::vector<Live> live;
  std::uint8_t variants = 0;  // of the nodes that have the last of `live`
  for (std::size_t n = 0; n < workspaces_.size(); ++n) {
    const Workspace& w = workspaces_[n];
    if (w.data == nullptr) continue;
    end = std::max(end, w.data - arena_ + w.bytes);
    const bool shared = n > 0 && workspaces_[n - 1].data == w.data && (variants & w.variants) == 0;
    variants = static_cast<std::uint8_t>(w.variants | (shared ? variants : 0));
    if (shared) {
      live.back().bytes = std::max(live.back().bytes, w.bytes);
      live.back().last = std::max(live.back().last, w.last);
    } else {
      live.push_back({static_cast<std::ptrdiff_t>(n), w.last, w.bytes, MemoryClass::Workspace});
    }
  }
  return live;
}

ClassBytes MemoryWatch::at_peak(std::span<const Live> live) const {
  std::vector<std::int64_t> change(graph_.nodes.size() + 1, 0);
  for (const Live& l : live) {
    change[static_cast<std::size_t>(l.first)] += align_up(l.bytes);
    change[static_cast<std::size_t>(l.last) + 1] -= align_up(l.bytes);
  }
  std::int64_t now = 0, most = -1;
  std::ptrdiff_t peak = 0;
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    now += change[n];
    if (now <= most) continue;
    most = now;
    peak = static_cast<std::ptrdiff_t>(n);
  }
  ClassBytes bytes{};
  for (const Live& l : live) {
    if (l.first <= peak && peak <= l.last) bytes[static_cast<std::size_t>(l.memory)] += l.bytes;
  }
  return bytes;
}

SeenMemory MemoryWatch::seen() const {
  SeenMemory seen;
  std::map<int, std::vector<Live>> parts = live_by_part(false, seen.end);
  const std::vector<Live> workspaces = live_workspaces(seen.end);
  parts[kTimeline].insert(parts[kTimeline].end(), workspaces.begin(), workspaces.end());
  for (const auto& [part, live] : parts) add(seen.class_bytes, at_peak(live));
  for (const auto& [part, live] : live_by_part(true, seen.host_end)) add(seen.class_bytes, at_peak(live));
  std::set<Key> persistent = outside_;
  for (const auto& [key, buffer] : buffers_) {
    if (graph_[key.first].persistent) persistent.insert(key);
  }
  for (const auto& [root, at] : persistent) {
    const Value& value = graph_[root];
    seen.persistent.push_back({value.name, value.memory, at - arena_, value.spec.bytes()});
  }
  return seen;
}

}  // namespace plimsoll
