#include "tests/emulation/accesses.hpp"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <map>

#include "tests/emulation/grid.hpp"

namespace emulated {
namespace {

enum class Access { Read, Write, Atomic };

// Who was last here: a thread (kSeveral: more than one, kAtomic: whoever) in an interval between barriers; 0: nobody.
class Stamp {
 public:
  Stamp() = default;
  Stamp(std::uint64_t interval, unsigned who) : bits_(interval << kBits | who) {}
  std::uint64_t interval() const { return bits_ >> kBits; }
  unsigned who() const { return static_cast<unsigned>(bits_ & ((1U << kBits) - 1)); }

 private:
  static constexpr unsigned kBits = 11;
  std::uint64_t bits_ = 0;
};
constexpr unsigned kSeveral = 1024, kAtomic = 1025, kHost = 1026;

struct Byte {
  Stamp write, read;
};

struct Region {
  std::uintptr_t begin = 0, end = 0;
  Byte* bytes = nullptr;
  bool of_block = false;
};

// Intervals are counted over all launches.
struct State {
  std::map<std::uintptr_t, Region> regions;
  Region last;  // that was touched
  std::uint64_t interval = 1, launch = 1, block = 1;
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

void check(const State& s, Stamp before, unsigned who, const Region& region, std::uintptr_t at, const char* what) {
  if (before.interval() < s.launch || (before.who() == kAtomic && who == kAtomic)) return;
  const bool here = before.interval() == s.interval && before.who() != who;
  const bool elsewhere = !region.of_block && before.interval() < s.block;
  if (here || elsewhere)
    fail("%s of %#zx by thread %u races with another %s", what, static_cast<std::size_t>(at), who,
         elsewhere ? "block" : "thread of its block");
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
  const Stamp now(s.interval, who);
  for (std::size_t i = 0; i < bytes; ++i) {
    Byte& byte = region->bytes[at - region->begin + i];
    check(s, byte.write, who, *region, at + i, access == Access::Read ? "a read" : "a write");
    if (access == Access::Read) {
      const bool shared = byte.read.interval() == s.interval && byte.read.who() != who;
      byte.read = shared ? Stamp(s.interval, kSeveral) : now;
    } else {
      check(s, byte.read, who, *region, at + i, "a write");
      byte.write = now;
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
  s.launch = ++s.interval;
  const auto at = reinterpret_cast<std::uintptr_t>(arguments);
  s.arguments = {at, at + bytes};
}
void watch_block() { state().block = ++state().interval; }
void watch_barrier() { ++state().interval; }
void watch_thread(unsigned rank) { running = rank; }
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
