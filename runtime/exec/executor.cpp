#include "runtime/exec/executor.hpp"

#include <algorithm>
#include <deque>

#include "runtime/core/log.hpp"
#include "runtime/exec/collectives.hpp"
#include "runtime/exec/memory_watch.hpp"

namespace plimsoll {

Executor::Executor(const Graph& graph, const MemoryPlan& plan, const ProgramLayout& layout,
                   const ExecutorContext& context, const ExecutorOptions& options)
    : graph_(graph),
      program_(layout.name),
      context_(context),
      options_(options),
      value_offset_(layout.value_offset),
      value_stride_(layout.value_stride) {
  for (const SlotRegion& region : layout.slots) slots_.push_back(region.count);
  if (slots_.empty()) slots_.push_back(1);
  inputs_ = reinterpret_cast<StepInputs*>(context.arena + plan.inputs_offset);
  outputs_ = reinterpret_cast<StepOutputs*>(context.arena + plan.outputs_offset);
  if (context.values == nullptr) {
    own_values_ = std::make_unique<StepValues>(*context.device, context.arena + plan.inputs_offset,
                                               context.arena + plan.outputs_offset);
  }
  values_ = context.values != nullptr ? context.values : own_values_.get();
  bound_.resize(graph.nodes.size());
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) bind(n, layout, context.arena);
  connect_streams(plan, layout);
  if (context.profile != nullptr) add_profile_rows(layout.name);
  if (options_.poison) plan_poison();
  if (!options_.overlap && context.communication != nullptr)
    turn_ = events_.emplace_back(context.device->make_event()).get();
  for (const Bound& b : bound_) {
    first_launch_.emplace_back();
    later_launch_.emplace_back();
    for (const Binding& s : b.slots) {
      first_launch_.back().push_back({&b, &s, &s.first});
      later_launch_.back().push_back({&b, &s, &s.later});
    }
  }
}

View Executor::view(ValueId value, int slot) const {
  const std::int64_t at = value_offset_[static_cast<std::size_t>(value)];
  require(at >= 0, ErrorKind::Internal, "value '{}' has no memory in this program", graph_[value].name);
  std::byte* arena = graph_[graph_.root(value)].host ? context_.host_arena : context_.arena;
  return {arena + at + slot * value_stride_[static_cast<std::size_t>(value)], graph_[value].spec};
}

void Executor::bind(std::size_t n, const ProgramLayout& layout, std::byte* arena) {
  const Node& node = graph_.nodes[n];
  const OpInfo& op = op_info(node.op);
  Bound& b = bound_[n];
  b.owner = this;
  const DType dtype = compute_dtype(op, node.specs);
  b.kernel = context_.kernels->find(node.op, node.phase, dtype);
  require(b.kernel != nullptr, ErrorKind::Internal, "no {} kernel for {} {} in {} ('{}')", context_.device->kind(),
          op.name, work_name(node), dtype_name(dtype), node.label);
  KernelArgs args;
  args.attributes = &node.attrs;
  args.label = node.label.c_str();
  if (layout.workspace_offset[n] >= 0) args.workspace = arena + layout.workspace_offset[n];
  args.threads = options_.threads;
  args.inputs = inputs_;
  args.outputs = outputs_;
  b.stream = stream_of(node.stream);
  require(b.stream != nullptr, ErrorKind::Internal, "'{}' needs a {} stream", node.label, stream_name(node.stream));
  args.stream = b.stream;
  b.range = fmt::format("{} {} {}", op.name, work_name(node), node.label);
  if (node.layer >= 0) b.range += fmt::format(" of layer {}", node.layer);
  const std::string_view axis = axis_of(node);
  if (!axis.empty()) {
    const auto group = context_.groups.find(axis);
    require(group != context_.groups.end(), ErrorKind::Internal, "'{}' needs the group of axis '{}'", node.label, axis);
    args.group = group->second;
    b.communicates = true;
  }
  b.slots.resize(static_cast<std::size_t>(slots_[std::min(static_cast<std::size_t>(node.chunk), slots_.size() - 1)]));
  for (std::size_t s = 0; s < b.slots.size(); ++s) bind_slot(node, static_cast<int>(s), args, b.slots[s]);
}

Stream* Executor::stream_of(StreamKind kind) const {
  switch (kind) {
    case StreamKind::Compute: return context_.compute;
    case StreamKind::Communication: return context_.communication;
    case StreamKind::Tensor: return context_.tensor;
    case StreamKind::Copy: return context_.copy;
  }
  return nullptr;
}

namespace {
constexpr std::array<std::string_view, 3> kSectionNames{"forward", "backward", "update"};
}

void Executor::add_profile_rows(const std::string& program) {
  std::vector<std::int64_t> bytes(graph_.nodes.size(), 0);
  std::vector<std::string> axis(graph_.nodes.size());
  for (const CollectiveCall& call : collectives(graph_)) {
    bytes[call.node] += call.bytes();
    axis[call.node] = call.axis;
  }
  const bool whole = context_.compute->only_launches() && !context_.profile->traces();
  for (std::size_t s = 0; s < kSectionNames.size() && whole; ++s) {
    ProfileRow row;
    row.program = program;
    row.op = row.section = kSectionNames[s];
    row.whole = true;
    section_row_[s] = context_.profile->add_row(std::move(row));
  }
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    const Node& node = graph_.nodes[n];
    if (whole && node.stream == StreamKind::Compute) continue;
    const OpInfo& op = op_info(node.op);
    ProfileRow row;
    row.program = program;
    row.op = op.name;
    row.phase = work_name(node);
    row.label = node.label;
    row.section = kSectionNames[static_cast<std::size_t>(graph_.section(n))];
    row.layer = node.layer;
    row.again = node.again;
    row.flops = op.flops(node.attrs, node.specs, node.phase);
    row.track = stream_name(node.stream);
    row.axis = axis[n];
    row.bytes = op.copies ? node.specs[HostCopy::kX].bytes() : bytes[n];
    bound_[n].profile_row = context_.profile->add_row(std::move(row));
    bound_[n].on_clock = bound_[n].stream->only_launches();
  }
}

void Executor::bind_slot(const Node& node, int slot, const KernelArgs& common, Binding& binding) const {
  binding.first = binding.later = common;
  for (std::size_t i = 0; i < op_info(node.op).slots.size(); ++i) {
    const TensorSpec& spec = node.specs[static_cast<int>(i)];
    binding.value[i].spec = spec;
    binding.grad[i].spec = gradient_spec(op_info(node.op).slots[i], spec);
    if (node.value[i] != kNoValue) binding.value[i].data = view(node.value[i], slot).data;
    if (node.grad[i] != kNoValue) binding.grad[i].data = view(node.grad[i], slot).data;
    if (node.accumulate[i] == Accumulate::Always) binding.first.accumulate |= 1U << i;
    if (node.accumulate[i] != Accumulate::Never) binding.later.accumulate |= 1U << i;
  }
  for (KernelArgs* args : {&binding.first, &binding.later}) {
    args->value = binding.value.data();
    args->grad = binding.grad.data();
  }
}

namespace {
constexpr std::size_t kVariants = 4;
}

// A node waits for the earlier nodes of other streams that touched the same bytes of an arena, when one of the two
// writes: a value, or another one that lies in its place. Bytes, not whole values: the reduction of one bucket does not
// hold up the gradients of the next. The host arena counts as lying behind that of the device.
void Executor::connect_streams(const MemoryPlan& plan, const ProgramLayout& layout) {
  struct Touch {
    std::size_t node;
    std::int64_t begin, end;
    bool writes;
  };
  const auto place_of = [&](ValueId v) {
    return value_offset_[static_cast<std::size_t>(v)] + (graph_[graph_.root(v)].host ? plan.total_bytes : 0);
  };
  std::array<std::vector<Touch>, kStreamKinds> touched;
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    const auto mine = static_cast<std::size_t>(graph_.nodes[n].stream);
    std::vector<Touch> now;
    std::vector<ValueId> roots;
    for_each_access(graph_, graph_.nodes[n], [&](const MemoryAccess& a) {
      roots.push_back(graph_.root(a.value));
      const std::int64_t begin = place_of(a.value);
      now.push_back({n, begin, begin + graph_[a.value].spec.bytes(), a.writes});
    });
    const std::int64_t workspace = layout.workspace_offset[n];
    if (workspace >= 0) now.push_back({n, workspace, workspace + layout.workspace_bytes[n], true});
    if (options_.poison) {
      // It fills the whole memory of a value of which the node may touch a part.
      for (const ValueId root : roots) {
        const std::int64_t begin = place_of(root);
        if (!graph_[root].persistent) now.push_back({n, begin, begin + graph_[root].spec.bytes(), true});
      }
    }
    // Of several, the latest, since a stream runs in order; but for each variant, since not every node runs in each.
    std::array<std::array<std::ptrdiff_t, kVariants>, kStreamKinds> wait_for;
    for (auto& of_stream : wait_for) of_stream.fill(-1);
    for (const Touch& t : now) {
      for (std::size_t s = 0; s < kStreamKinds; ++s) {
        if (s == mine) continue;
        for (const Touch& other : touched[s]) {
          const bool meets = other.begin < t.end && t.begin < other.end && (other.writes || t.writes);
          if (!meets) continue;
          for (std::size_t v = 0; v < kVariants; ++v) {
            const auto bit = static_cast<std::uint8_t>(1U << v);
            const bool both = (graph_.nodes[n].when & bit) != 0 && (graph_.nodes[other.node].when & bit) != 0;
            if (both) wait_for[s][v] = std::max(wait_for[s][v], static_cast<std::ptrdiff_t>(other.node));
          }
        }
      }
      const bool needed_next = t.end > plan.persistent_bytes || graph_.section(n) == Graph::Section::Update;
      if (graph_.nodes[n].stream == StreamKind::Compute || !needed_next) continue;
      for (Event** end : {&section_end_[static_cast<std::size_t>(StreamKind::Compute)], &section_end_[mine]}) {
        if (*end == nullptr) *end = events_.emplace_back(context_.device->make_event()).get();
      }
    }
    for (const auto& of_stream : wait_for) {
      for (const std::ptrdiff_t node : of_stream) {
        if (node < 0) continue;
        Bound& from = bound_[static_cast<std::size_t>(node)];
        if (from.done == nullptr) from.done = events_.emplace_back(context_.device->make_event()).get();
        auto& waits = bound_[n].waits;
        if (std::find(waits.begin(), waits.end(), from.done) == waits.end()) waits.push_back(from.done);
      }
    }
    touched[mine].insert(touched[mine].end(), now.begin(), now.end());
  }
}

void Executor::join() {
  const auto for_ends = [&](const auto& visit) {
    for (std::size_t s = 0; s < kStreamKinds; ++s) {
      if (section_end_[s] != nullptr) visit(*stream_of(static_cast<StreamKind>(s)), *section_end_[s]);
    }
  };
  for_ends([](Stream& stream, Event& end) { stream.record(end); });
  for_ends([&](Stream& stream, const Event& mine) {
    for_ends([&](Stream&, const Event& other) {
      if (&other != &mine) stream.wait(other);
    });
  });
}

void Executor::plan_poison() {
  std::vector<std::ptrdiff_t> first(graph_.values.size(), -1), last(graph_.values.size(), -1);
  // Another stream may still read it after its last node. What comes back from the host was awaited by its readers, and
  // what lies there is touched by one stream.
  std::vector<bool> read_beside(graph_.values.size(), false);
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    for_each_access(graph_, graph_.nodes[n], [&](const MemoryAccess& a) {
      const auto root = static_cast<std::size_t>(graph_.root(a.value));
      if (first[root] < 0) first[root] = static_cast<std::ptrdiff_t>(n);
      last[root] = static_cast<std::ptrdiff_t>(n);
      const StreamKind stream = graph_.nodes[n].stream;
      const bool leaves = stream == StreamKind::Copy && a.reads && !graph_.values[root].host;
      if (communicates(stream) || leaves) read_beside[root] = true;
    });
  }
  std::vector<bool> is_given(graph_.values.size(), false), is_result(graph_.values.size(), false);
  for (const auto& [name, id] : graph_.named) is_result[static_cast<std::size_t>(graph_.root(id))] = true;
  for (const OutsideUse& use : outside_uses(graph_)) {
    (use.writes ? is_given : is_result)[static_cast<std::size_t>(use.value)] = true;
  }
  for (std::size_t v = 0; v < graph_.values.size(); ++v) {
    if (first[v] < 0 || graph_.values[v].persistent || graph_.values[v].base != kNoValue) continue;
    auto& before = bound_[static_cast<std::size_t>(first[v])].slots;
    auto& after = bound_[static_cast<std::size_t>(last[v])].slots;
    for (std::size_t s = 0; s < before.size(); ++s) {
      const View memory = view(static_cast<ValueId>(v), static_cast<int>(s));
      if (!is_given[v]) before[s].poison_before.emplace_back(memory.data, memory.spec.bytes());
      // What the host reads after the run stays.
      if (!read_beside[v] && !is_result[v]) after[s].poison_after.emplace_back(memory.data, memory.spec.bytes());
    }
  }
}

void Executor::run_kernel(Kernel kernel, const KernelArgs& args) const {
  if (options_.before_node != nullptr) options_.before_node();
  kernel(args);
  if (options_.after_node != nullptr) options_.after_node();
}

void Executor::run_bound(const Bound& bound, const Binding& binding, const KernelArgs& args) {
  constexpr std::uint8_t kNaNByte = 0xFF;  // all ones is a NaN in every floating dtype
  const Executor& owner = *bound.owner;
  const NamedRange range(*bound.stream, bound.range.c_str());
  for (const auto& [data, bytes] : binding.poison_before) bound.stream->fill(data, kNaNByte, bytes);
  if (bound.profile_row >= 0 && !bound.on_clock) {
    const std::int64_t begin = Profile::now_ns();
    owner.run_kernel(bound.kernel, args);
    owner.context_.profile->record(bound.profile_row, begin, Profile::now_ns());
  } else {
    owner.run_kernel(bound.kernel, args);
  }
  for (const auto& [data, bytes] : binding.poison_after) bound.stream->fill(data, kNaNByte, bytes);
}

void Executor::take_turns(Stream& from, Stream& to) {
  from.record(*turn_);
  to.wait(*turn_);
}

std::vector<std::size_t> Executor::nodes_of(Graph::Section section, Variant variant, const RunPart& part) const {
  const auto bit = static_cast<std::uint8_t>(variant);
  std::vector<std::size_t> nodes;
  for (std::size_t n = 0; n < bound_.size(); ++n) {
    const Node& node = graph_.nodes[n];
    if (graph_.section(n) != section || node.chunk != part.chunk || (node.when & bit) == 0) continue;
    if (part.half != Half::Both && node.late != (part.half == Half::Second)) continue;
    nodes.push_back(n);
  }
  return nodes;
}

Task Executor::task_of(Launch& launch) {
  return {[](void* l) {
            const auto* work = static_cast<const Launch*>(l);
            run_bound(*work->bound, *work->binding, *work->args);
          },
          &launch};
}

const KernelArgs& Executor::launch_node(std::size_t n, Variant variant, const RunPart& part) {
  const bool first = variant == Variant::First || variant == Variant::Only;
  Bound& b = bound_[n];
  Launch& launch = (first ? first_launch_ : later_launch_)[n][static_cast<std::size_t>(part.slot)];
  StreamTimes::Span* span = b.on_clock ? &context_.times->begin(b.profile_row, *b.stream) : nullptr;
  b.stream->launch(task_of(launch));
  if (span != nullptr) StreamTimes::end(*span);
  return *launch.args;
}

const KernelArgs& Executor::run_node(std::size_t n, Variant variant, const RunPart& part) {
  Bound& b = bound_[n];
  const bool alone = turn_ != nullptr && communicates(graph_.nodes[n].stream);
  if (alone) take_turns(*context_.compute, *b.stream);
  for (Event* event : b.waits) b.stream->wait(*event);
  const KernelArgs& args = launch_node(n, variant, part);
  if (b.done != nullptr) b.stream->record(*b.done);
  if (alone) take_turns(*b.stream, *context_.compute);
  return args;
}

void Executor::prepare() {
  static const Alone alone;
  std::deque<std::pair<KernelArgs, Launch>> apart;  // what tasks point at until the stream is idle
  const auto call = [&](const Bound& b, const KernelArgs& args) {
    auto& [own, launch] = apart.emplace_back(args, Launch{&b, &b.slots.front(), nullptr});
    if (own.group != nullptr) own.group = &alone;
    launch.args = &own;
    b.stream->launch(task_of(launch));
  };
  values_->send(*context_.compute);
  for (std::size_t n = 0; n < bound_.size(); ++n) {
    const Bound& b = bound_[n];
    if (b.stream != context_.compute || op_info(graph_.nodes[n].op).collective) continue;
    const Binding& binding = b.slots.front();
    call(b, binding.first);
    if (binding.first.accumulate != binding.later.accumulate) call(b, binding.later);
  }
  context_.compute->synchronize();
}

// Of a run, what each of its nodes must wait for. The others of its waits are for nodes of a stream of which the same
// stream has awaited a later one.
std::vector<std::vector<Event*>> Executor::needed_waits(const std::vector<std::size_t>& nodes) const {
  std::map<const Event*, std::size_t> recorded_by;
  for (const std::size_t n : nodes) {
    if (bound_[n].done != nullptr) recorded_by[bound_[n].done] = n;
  }
  std::vector<std::vector<Event*>> needed;
  std::map<std::pair<const Stream*, const Stream*>, std::size_t> latest;  // one behind the last that was awaited
  std::set<std::pair<const Stream*, const Event*>> earlier;               // of runs before this one
  for (const std::size_t n : nodes) {
    needed.emplace_back();
    for (Event* event : bound_[n].waits) {
      const auto from = recorded_by.find(event);
      bool is_new = false;
      if (from == recorded_by.end()) {
        is_new = earlier.emplace(bound_[n].stream, event).second;
      } else {
        std::size_t& end = latest[{bound_[n].stream, bound_[from->second].stream}];
        is_new = from->second >= end;
        end = std::max(end, from->second + 1);
      }
      if (is_new) needed.back().push_back(event);
    }
  }
  return needed;
}

// A run of which every node is the compute stream's is one stretch: what it waits for was recorded before it. In
// others, a stretch begins with a node that waits and ends with one that is awaited, so that neither is held up.
std::vector<Executor::Stretch> Executor::stretches_of(const std::vector<std::size_t>& nodes,
                                                      const RunPart& part) const {
  constexpr std::size_t kFewest = 3;  // fewer are launched as fast by themselves
  const bool may_record = options_.record && (context_.profile == nullptr || !context_.profile->traces());
  const auto is_marked = [&](std::size_t n) {
    return std::find(part.marked.begin(), part.marked.end(), n) != part.marked.end();
  };
  const auto computes = [&](std::size_t n) { return bound_[n].stream == context_.compute && !bound_[n].communicates; };
  const bool whole = part.marked.empty() && std::all_of(nodes.begin(), nodes.end(), computes);
  const std::vector<std::vector<Event*>> waits = needed_waits(nodes);
  std::vector<Stretch> stretches;
  bool open = false;  // may the last one have more nodes?
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const std::size_t n = nodes[i];
    const Bound& b = bound_[n];
    const bool joins = may_record && computes(n);
    if (!open || !joins || (!whole && !waits[i].empty())) stretches.emplace_back();
    Stretch& stretch = stretches.back();
    stretch.nodes.push_back(n);
    stretch.before.insert(stretch.before.end(), waits[i].begin(), waits[i].end());
    if (b.done != nullptr) stretch.after.push_back(b.done);
    stretch.records = joins && (whole || stretch.nodes.size() >= kFewest);
    open = joins && (whole || (b.done == nullptr && !is_marked(n)));
  }
  return stretches;
}

Executor::Recorded& Executor::recorded(Graph::Section section, Variant variant, const RunPart& part) {
  const std::array<int, 5> key{static_cast<int>(section), static_cast<int>(variant), part.chunk, part.slot,
                               static_cast<int>(part.half)};
  const auto found = recorded_.find(key);
  if (found != recorded_.end()) return found->second;
  Recorded& of = recorded_[key];
  of.stretches = stretches_of(nodes_of(section, variant, part), part);
  of.range = fmt::format("{} {}", program_, kSectionNames[static_cast<std::size_t>(section)]);
  if (slots_.size() > 1) of.range += fmt::format(", chunk {}", part.chunk);
  of.records = std::any_of(of.stretches.begin(), of.stretches.end(), [](const Stretch& s) { return s.records; });
  return of;
}

// Null: there is no recording, and nothing was done. What went wrong may be of launches rather than of recording them:
// then it goes wrong again when they are done.
std::unique_ptr<Recording> Executor::capture(const Stretch& of, const std::string& range, Variant variant,
                                             const RunPart& part) {
  Stream& compute = *context_.compute;
  try {
    if (!compute.begin_capture()) return nullptr;
    for (const std::size_t n : of.nodes) launch_node(n, variant, part);
    return compute.end_capture();
  } catch (const Error& error) {
    compute.drop_capture();
    if (unrecorded_.insert(range).second) {
      log_warn("{}: what begins with '{}' is launched node by node, since it could not be recorded: {}", range,
               bound_[of.nodes.front()].range, error.what());
    }
    return nullptr;
  }
}

// Events of the compute stream's own nodes are recorded for others, never for itself: what it waits for here was
// recorded before this stretch.
void Executor::run_recorded(Stretch& of, const std::string& range, Variant variant, const RunPart& part) {
  Stream& compute = *context_.compute;
  for (const Event* event : of.before) compute.wait(*event);
  if (!of.recording) of.recording = capture(of, range, variant, part);
  if (of.recording) {
    compute.replay(*of.recording);
  } else {
    of.records = false;
    for (const std::size_t n : of.nodes) launch_node(n, variant, part);
  }
  for (Event* event : of.after) compute.record(*event);
}

void Executor::run(Graph::Section section, Variant variant, const RunPart& part) {
  values_->send(*context_.compute);
  Recorded& of = recorded(section, variant, part);
  const NamedRange range(*context_.compute, of.range.c_str());
  const int row = section_row_[static_cast<std::size_t>(section)];
  StreamTimes::Span* span = row >= 0 ? &context_.times->begin(row, *context_.compute) : nullptr;
  // A watch saw what was recorded the first time; beside other streams it sees every run.
  const bool replays = of.records && of.prepared && (watch_ == nullptr || of.stretches.size() == 1);
  if (watch_ != nullptr && !replays) watch_->begin_run();
  for (Stretch& stretch : of.stretches) {
    if (replays && stretch.records) {
      run_recorded(stretch, of.range, variant, part);
    } else {
      for (const std::size_t n : stretch.nodes) {
        const KernelArgs& args = run_node(n, variant, part);
        if (watch_ != nullptr && !replays) watch_->launched(n, variant, args);
      }
    }
    const std::size_t last = stretch.nodes.back();
    const bool marked = std::find(part.marked.begin(), part.marked.end(), last) != part.marked.end();
    if (marked && part.launched != nullptr) part.launched(part.context, last);
  }
  if (watch_ != nullptr) replays ? watch_->replayed() : watch_->end_run();
  of.prepared = true;
  if (span != nullptr) StreamTimes::end(*span);
  if (part.join) join();
}

void Executor::synchronize() {
  context_.compute->synchronize();
  if (context_.communication != nullptr) context_.communication->synchronize();
  if (context_.tensor != nullptr) context_.tensor->synchronize();
  if (context_.copy != nullptr) context_.copy->synchronize();
  if (context_.times != nullptr) context_.times->collect();
}

}  // namespace plimsoll
