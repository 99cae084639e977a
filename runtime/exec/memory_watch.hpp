#pragma once
// What memory a program is seen to use: which buffers its kernels are handed while the nodes are launched, from the
// first node to the last. Of the plan nothing is read but where slots lie, so that what is seen can differ from it.
//
// A buffer is a value that has memory of its own, in the place where it was handed out, or the workspace of a node; all
// of it counts from its first touch to its last. What communication or a copy touches is under way until compute
// touches the same bytes and one of the two writes, at most as long as plan/in_flight.hpp says. A buffer that forward
// and a later section both touch is an activation, whatever the graph says of it.

#include <map>
#include <set>
#include <span>
#include <vector>

#include "runtime/exec/kernel_table.hpp"
#include "runtime/plan/memory.hpp"

namespace plimsoll {

// What was seen of one program.
struct SeenMemory {
  std::vector<PersistentRegion> persistent;  // that any node, message or copy touched
  // Live where most of the step region was (sizes rounded up to kArenaAlignment), of each slot and of the rest by
  // itself, together; and the end of the last byte in the arena. Class Offloaded: the same of the host arena.
  ClassBytes class_bytes{};
  std::int64_t end = 0, host_end = 0;
};

// Of a run: the persistent values of all its programs, and what the one had that came furthest in the arena. The same
// of the host arena. To be compared with MemoryPlan::class_bytes.
ClassBytes seen_class_bytes(std::span<const SeenMemory> programs);

class MemoryWatch {
 public:
  // Everything outlives the watch; `host_arena`: may be null.
  MemoryWatch(const Graph& graph, const ProgramLayout& layout, const std::byte* arena, const std::byte* host_arena);

  // The nodes of a run() are launched between the two. replayed(): they were recorded, and seen then.
  void begin_run();
  void launched(std::size_t node, Variant variant, const KernelArgs& args);
  void end_run();
  void replayed();
  // A value that others than nodes write before the next run, or read after the last one.
  void given_before(ValueId value, const View& memory);
  void taken_after(ValueId value, const View& memory);
  // Others than nodes touch a persistent value, or a part of it.
  void touched(const View& persistent);

  SeenMemory seen() const;

 private:
  struct Buffer {
    std::ptrdiff_t first, last;  // nodes
    bool in_forward = false, in_later = false;
  };
  using Key = std::pair<ValueId, const std::byte*>;  // a root, and where it lies
  struct Workspace {
    const std::byte* data = nullptr;
    std::int64_t bytes = 0;
    std::ptrdiff_t last = 0;
    std::uint8_t variants = 0;  // that the node ran in
  };
  struct Bytes {
    const std::byte *begin, *end;
    bool writes;
  };
  // A node of another stream than compute that may not be done, and the last node that may find it so.
  struct UnderWay {
    std::size_t node, last;
    std::vector<Bytes> bytes;
    std::vector<Key> buffers;
  };
  struct Live {
    std::ptrdiff_t first, last;
    std::int64_t bytes;
    MemoryClass memory;
  };

  Key touch(ValueId value, const void* data, std::size_t node);
  std::vector<Bytes> touch_all(std::size_t node, const KernelArgs& args, std::vector<Key>& buffers);
  void end_those_before(std::size_t node, const std::vector<Bytes>& bytes);
  void end(const UnderWay& what, std::size_t last);
  MemoryClass class_of(ValueId root, const Buffer& buffer) const;
  std::map<int, std::vector<Live>> live_by_part(bool host, std::int64_t& end) const;
  std::vector<Live> live_workspaces(std::int64_t& end) const;
  ClassBytes at_peak(std::span<const Live> live) const;

  const Graph& graph_;
  const ProgramLayout& layout_;
  const std::byte *arena_, *host_arena_;
  std::map<Key, Buffer> buffers_;
  std::vector<Workspace> workspaces_;  // by node
  std::set<Key> outside_;              // persistent values that others than nodes touched
  std::vector<UnderWay> under_way_;
  std::vector<std::pair<ValueId, const void*>> given_;
  std::ptrdiff_t last_ = -1;  // node of the run; -1: it was not seen
};

}  // namespace plimsoll
