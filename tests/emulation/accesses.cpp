#include "tests/emulation/accesses.hpp"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string_view>

#include "tests/emulation/grid.hpp"

extern uint3 blockIdx;

namespace emulated {
namespace {

enum class Access { Read, Write, Atomic };

// Who was last here, and when: a thread, several of one warp, more, or atomic operations. Time passes at barriers.
class Stamp {
 public:
  Stamp() = default;
  Stamp(std::uint64_t time, unsigned who) : bits_(time << kBits | who) {}
  std::uint64_t time() const { return bits_ >> kBits; }
  unsigned who() const { return static_cast<unsigned>(bits_ & ((1U << kBits) - 1)); }

 private:
  static constexpr unsigned kBits = 11;
  std::uint64_t bits_ = 0;
};
constexpr unsigned kThreads = 1024, kWarp = 32;
constexpr unsigned kOfWarp = kThreads, kMany = kOfWarp + kThreads / kWarp, kAtomic = kMany + 1, kHost = kAtomic + 1;

// kMany: of none.
unsigned warp_of(unsigned who) { return who < kThreads ? who / kWarp : who < kMany ? who - kOfWarp : kMany; }

struct Byte {
  Stamp write, read;
};

struct Region {
  std::uintptr_t begin = 0, end = 0;
  Byte* bytes = nullptr;
  bool of_block = false;
};

struct State {
  std::map<std::uintptr_t, Region> regions;
  Region last;  // that was touched
  // Now, and when this launch and this block began, when its threads last met, and when those of each warp did.
  std::uint64_t now = 1, launch = 1, block = 1, barrier = 1;
  std::array<std::uint64_t, kThreads / kWarp> warps{};
  Region stacks, arguments, image;  // image: of this module
};
// The thread of the grid that this thread of the host runs. Launchers of other threads, which are compiled as device
// code is, are not meant.
__attribute__((tls_model("initial-exec"))) thread_local unsigned running = kHost;

State* new_state();
State& state() {
  static State* const the_state = new_state();
  return *the_state;
}

State* new_state() {
  auto* s = new State;
  const auto add_module = [](dl_phdr_info* module, std::size_t, void* to) {
    static const char mine = 0;
    const auto here = reinterpret_cast<std::uintptr_t>(&mine);
    Region image{~std::uintptr_t{0}, 0};
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      if (module->dlpi_phdr[i].p_type != PT_LOAD) continue;
      const std::uintptr_t begin = module->dlpi_addr + module->dlpi_phdr[i].p_vaddr;
      image.begin = std::min(image.begin, begin);
      image.end = std::max(image.end, begin + module->dlpi_phdr[i].p_memsz);
    }
    if (here >= image.begin && here < image.end) *static_cast<Region*>(to) = image;
    return 0;
  };
  dl_iterate_phdr(add_module, &s->image);
  return s;
}

bool within(std::uintptr_t at, const Region& region) { return at >= region.begin && at < region.end; }

const Region* region_of(std::uintptr_t at) {
  State& s = state();
  if (within(at, s.last)) return &s.last;
  auto found = s.regions.upper_bound(at);
  if (found == s.regions.begin()) return nullptr;
  --found;
  if (at >= found->second.end) return nullptr;
  s.last = found->second;
  return &s.last;
}

// Whether barriers of this block order what was before and what `who` does now.
bool is_ordered(const State& s, Stamp before, unsigned who) {
  if (before.time() < s.barrier || before.who() == who) return true;
  const unsigned warp = warp_of(who);
  return warp < kMany && warp_of(before.who()) == warp && before.time() < s.warps[warp];
}

void check(const State& s, Stamp before, unsigned who, const Region& region, std::uintptr_t at, const char* what) {
  if (before.time() < s.launch || (before.who() == kAtomic && who == kAtomic)) return;
  const bool elsewhere = before.time() < s.block;
  if (elsewhere ? !region.of_block : !is_ordered(s, before, who))
    fail("%s of %#zx by thread %u of block (%u, %u, %u) races with %s", what, static_cast<std::size_t>(at), who,
         blockIdx.x, blockIdx.y, blockIdx.z, elsewhere ? "another block" : "another thread of its block");
}

// Of a read beside one that was before.
Stamp both(const State& s, Stamp before, unsigned who) {
  if (before.time() < s.block || is_ordered(s, before, who)) return {s.now, who};
  const bool one_warp = warp_of(before.who()) == warp_of(who) && warp_of(who) < kMany;
  return {s.now, one_warp ? kOfWarp + warp_of(who) : kMany};
}

void note(const void* address, std::size_t bytes, Access access) {
  if (running == kHost) return;
  State& s = state();
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const Region* region = region_of(at);
  if (region == nullptr) {
    const bool constant = access == Access::Read && (within(at, s.image) || within(at, s.arguments));
    if (!constant && !within(at, s.stacks)) fail("device code touches memory of the host, at %p", address);
    return;
  }
  if (at + bytes > region->end) fail("an access of %zu bytes goes beyond the memory that it begins in", bytes);
  const unsigned who = access == Access::Atomic ? kAtomic : running;
  for (std::size_t i = 0; i < bytes; ++i) {
    Byte& byte = region->bytes[at - region->begin + i];
    check(s, byte.write, who, *region, at + i, access == Access::Read ? "a read" : "a write");
    if (access == Access::Read) {
      byte.read = both(s, byte.read, who);
    } else {
      check(s, byte.read, who, *region, at + i, "a write");
      byte.write = {s.now, who};
    }
  }
}

}  // namespace

void watch(const void* begin, std::size_t bytes, bool of_block) {
  const auto at = reinterpret_cast<std::uintptr_t>(begin);
  void* shadow =
      mmap(nullptr, bytes * sizeof(Byte), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shadow == MAP_FAILED) fail("no memory to watch %zu bytes", bytes);
  state().regions[at] = {at, at + bytes, static_cast<Byte*>(shadow), of_block};
}
void forget(const void* begin) {
  const auto at = state().regions.find(reinterpret_cast<std::uintptr_t>(begin));
  if (at == state().regions.end()) return;
  munmap(at->second.bytes, (at->second.end - at->second.begin) * sizeof(Byte));
  state().regions.erase(at);
  state().last = {};
}

void watch_stacks(const void* begin, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(begin);
  state().stacks = {at, at + bytes};
}
void watch_launch(const void* arguments, std::size_t bytes) {
  State& s = state();
  s.launch = ++s.now;
  const auto at = reinterpret_cast<std::uintptr_t>(arguments);
  s.arguments = {at, at + bytes};
}
void watch_block() {
  State& s = state();
  s.block = s.barrier = ++s.now;
  s.warps.fill(s.now);
}
void watch_barrier() { state().barrier = ++state().now; }
void watch_warp(unsigned warp) { state().warps[warp] = ++state().now; }
void watch_thread(unsigned rank) {
  static const bool watched = [] {
    const char* name = std::getenv("EMULATED_CUDA_ACCESSES");
    const std::string_view chosen = name == nullptr ? "watched" : name;
    if (chosen != "watched" && chosen != "free") fail("EMULATED_CUDA_ACCESSES=%s", name);
    return chosen == "watched";
  }();
  running = watched ? rank : kHost;
}
void watch_host() { running = kHost; }
void watch_atomic(const void* at, std::size_t bytes) { note(at, bytes, Access::Atomic); }

}  // namespace emulated

// What the compiler calls. Alignment is what -fsanitize=alignment sees: these calls come for parts of types, too.
#define EMULATED_ACCESS(bytes)                                                                                  \
  extern "C" void __tsan_read##bytes(void* at) { emulated::note(at, bytes, emulated::Access::Read); }           \
  extern "C" void __tsan_write##bytes(void* at) { emulated::note(at, bytes, emulated::Access::Write); }         \
  extern "C" void __tsan_unaligned_read##bytes(void* at) { emulated::note(at, bytes, emulated::Access::Read); } \
  extern "C" void __tsan_unaligned_write##bytes(void* at) { emulated::note(at, bytes, emulated::Access::Write); }
EMULATED_ACCESS(1)
EMULATED_ACCESS(2)
EMULATED_ACCESS(4)
EMULATED_ACCESS(8)
EMULATED_ACCESS(16)
#undef EMULATED_ACCESS
extern "C" void __tsan_read_range(void* at, std::size_t bytes) { emulated::note(at, bytes, emulated::Access::Read); }
extern "C" void __tsan_write_range(void* at, std::size_t bytes) { emulated::note(at, bytes, emulated::Access::Write); }
extern "C" void __tsan_init() {}

// And of -fsanitize=alignment,bounds.
struct EmulatedPlace {
  const char* file;
  std::uint32_t line, column;
};
extern "C" [[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(const EmulatedPlace* place, const void* address) {
  emulated::fail("%s:%u: an access at %p, where its type does not belong", place->file, place->line, address);
}
extern "C" [[noreturn]] void __ubsan_handle_out_of_bounds_abort(const EmulatedPlace* place, std::size_t index) {
  emulated::fail("%s:%u: index %zu is out of bounds", place->file, place->line, index);
}
