#pragma once
// Runs the nodes of one program at the addresses of its plan. All decisions were made before: the executor binds
// kernels to addresses once, inserts the waits between streams, and then only launches.

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "runtime/exec/kernel_table.hpp"
#include "runtime/exec/profile.hpp"
#include "runtime/exec/step_values.hpp"
#include "runtime/exec/stream_times.hpp"
#include "runtime/plan/memory.hpp"

namespace plimsoll {

struct ExecutorOptions {
  int threads = 1;
  // Debugging: outputs are filled with NaN before they are written, memory with NaN as soon as nothing reads it any
  // more.
  bool poison = false;
  // False: compute waits for each communication node, and it for all compute before. Copies overlap all the same.
  bool overlap = true;
  // Called on the thread of a kernel right before and after it; may be null. They watch what kernels do (allocations).
  void (*before_node)() = nullptr;
  void (*after_node)() = nullptr;
  // What a run() launches on the compute stream is recorded when it comes a second time, and replayed from then on,
  // where the stream can record: all of it as one, or what lies between collectives and copies, and between what waits
  // for other streams or is awaited by them. Kernels prepare what they need in the first. Not for a trace. What cannot
  // be recorded is launched node by node, with a warning for each section.
  bool record = false;
};

// What a program runs with. Everything outlives the executor.
struct ExecutorContext {
  Device* device = nullptr;
  Stream* compute = nullptr;
  Stream* communication = nullptr;  // may be null when the graph has no collectives, and …
  std::byte* arena = nullptr;       // MemoryPlan::total_bytes long
  const KernelTable* kernels = nullptr;
  std::map<std::string, const Reducer*, std::less<>> groups;  // by mesh axis
  // May be null. Nodes are timed one by one: all of them for a trace, or where tasks do not only launch; else those of
  // streams beside compute, whose sections are timed as a whole.
  Profile* profile = nullptr;
  Stream* tensor = nullptr;         // … when it has none of the axis "tensor"
  Stream* copy = nullptr;           // may be null when nothing is offloaded, like …
  std::byte* host_arena = nullptr;  // … this: MemoryPlan::host_bytes long
  StepValues* values = nullptr;     // of the arena, shared by its programs; null: the executor makes its own
  StreamTimes* times = nullptr;     // of the profile; null where no stream only launches
};

// Which nodes of a section run, and for whom. Without a pipeline, all of them.
enum class Half : std::uint8_t { Both, First, Second };
struct RunPart {
  int chunk = 0;
  int slot = 0;  // of the chunk
  Half half = Half::Both;
  bool join = true;  // false: the caller calls join() before anything else runs
  // Called when one of these nodes was launched, so that more can be launched right behind it. They are the same for
  // every run of a section, chunk and half.
  std::span<const std::size_t> marked = {};
  void (*launched)(void* context, std::size_t node) = nullptr;
  void* context = nullptr;
};

class MemoryWatch;

class Executor {
 public:
  // Throws Error(Internal) naming the node that has no kernel for its dtype.
  Executor(const Graph& graph, const MemoryPlan& plan, const ProgramLayout& layout, const ExecutorContext& context,
           const ExecutorOptions& options);

  // Launches the nodes of a section on their streams. Backward nodes run in the variants their node names.
  void run(Graph::Section section, Variant variant = Variant::Only, const RunPart& part = {});
  // Launches the kernel of every node but collectives and copies to or from the host once, and once more where it may
  // also add to what was there, in any state of the memory, and leaves results that mean nothing: so that what the
  // device loads or chooses with a first call is there before others wait for it. Kernels that ask their group get no
  // answer: they are called alone.
  void prepare();
  // Makes the streams wait for each other: what runs next may use the memory of what ran before.
  void join();
  // Blocks until all streams are idle; rethrows what a kernel threw.
  void synchronize();

  // The host writes inputs before run(), which takes what they are then, and reads outputs after synchronize().
  StepInputs& inputs() { return values_->inputs(); }
  StepOutputs outputs() const { return values_->outputs(); }
  View view(ValueId value, int slot = 0) const;
  View view(std::string_view name, int slot = 0) const { return view(graph_.find(name), slot); }
  const Graph& graph() const { return graph_; }
  // Sees what is launched from now on; null: nobody does. Outlives that.
  void set_watch(MemoryWatch* watch) { watch_ = watch; }
  MemoryWatch* watch() const { return watch_; }

 private:
  // The addresses of a node for one slot.
  struct Binding {
    std::array<View, kMaxSlots> value, grad;
    KernelArgs first, later;  // differ in `accumulate` only
    std::vector<std::pair<void*, std::int64_t>> poison_before, poison_after;
  };
  struct Bound {
    Kernel kernel = nullptr;
    std::vector<Binding> slots;
    Stream* stream = nullptr;
    std::vector<Event*> waits;
    Event* done = nullptr;  // recorded when a node of another stream waits for it
    int profile_row = -1;
    bool on_clock = false;  // of the device: context_.times
    bool communicates = false;
    std::string range;  // its name for profilers: "linear forward attention.qkv of layer 3"
    Executor* owner = nullptr;
  };
  struct Launch {
    const Bound* bound;
    const Binding* binding;
    const KernelArgs* args;
  };
  void bind(std::size_t n, const ProgramLayout& layout, std::byte* arena);
  void bind_slot(const Node& node, int slot, const KernelArgs& common, Binding& binding) const;
  void connect_streams(const MemoryPlan& plan, const ProgramLayout& layout);
  Stream* stream_of(StreamKind kind) const;
  void plan_poison();
  void add_profile_rows(const std::string& program);
  static void run_bound(const Bound& bound, const Binding& binding, const KernelArgs& args);
  void take_turns(Stream& from, Stream& to);
  // Nodes of a run, one behind the other, that are launched as one where they are recorded.
  struct Stretch {
    std::vector<std::size_t> nodes;
    bool records = false;
    std::vector<Event*> before;  // of other streams, which it waits for
    std::vector<Event*> after;   // which others wait for
    std::unique_ptr<Recording> recording;
  };
  // What a run launches.
  struct Recorded {
    std::vector<Stretch> stretches;
    std::string range;      // its name for profilers: "train backward"
    bool records = false;   // some of it
    bool prepared = false;  // it ran once
  };
  // The nodes of a run, in order.
  std::vector<std::size_t> nodes_of(Graph::Section section, Variant variant, const RunPart& part) const;
  static Task task_of(Launch& launch);
  const KernelArgs& launch_node(std::size_t n, Variant variant, const RunPart& part);
  // With its waits, and what waits for it.
  const KernelArgs& run_node(std::size_t n, Variant variant, const RunPart& part);
  std::vector<std::vector<Event*>> needed_waits(const std::vector<std::size_t>& nodes) const;
  std::vector<Stretch> stretches_of(const std::vector<std::size_t>& nodes, const RunPart& part) const;
  Recorded& recorded(Graph::Section section, Variant variant, const RunPart& part);
  std::unique_ptr<Recording> capture(const Stretch& of, const std::string& range, Variant variant, const RunPart& part);
  void run_recorded(Stretch& of, const std::string& range, Variant variant, const RunPart& part);
  void run_kernel(Kernel kernel, const KernelArgs& args) const;

  const Graph& graph_;
  std::string program_;  // its name
  ExecutorContext context_;
  ExecutorOptions options_;
  std::vector<std::int64_t> value_offset_, value_stride_;
  std::vector<int> slots_;              // by chunk
  const StepInputs* inputs_ = nullptr;  // these two in the arena
  StepOutputs* outputs_ = nullptr;
  std::unique_ptr<StepValues> own_values_;
  StepValues* values_ = nullptr;
  std::vector<Bound> bound_;
  std::array<int, 3> section_row_{-1, -1, -1};  // of the profile, where sections are timed as a whole
  std::deque<std::unique_ptr<Event>> events_;
  // By stream; null where it has nothing to do, or touches persistent memory only.
  std::array<Event*, kStreamKinds> section_end_{};
  Event* turn_ = nullptr;  // null: the streams overlap
  MemoryWatch* watch_ = nullptr;
  std::vector<std::vector<Launch>> first_launch_, later_launch_;  // [node][slot], task arguments, fixed addresses
  std::map<std::array<int, 5>, Recorded> recorded_;               // by section, variant, chunk, slot and half
  std::set<std::string> unrecorded_;                              // sections of which something cannot be recorded
};

}  // namespace plimsoll
