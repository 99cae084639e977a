#include "tests/emulation/grid.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <string_view>
#include <vector>

#include "tests/emulation/accesses.hpp"
#include "tests/emulation/device.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Saves the registers that a call keeps, and the stack in *from; goes on with the stack `to`.
extern "C" __attribute__((visibility("hidden"))) void emulated_switch(void** from, void* to);
asm(R"(
.text
.type emulated_switch, @function
emulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulated_switch, .-emulated_switch
)");

namespace emulated {
namespace {

constexpr unsigned kWarp = 32, kMostThreads = 1024;
// Of compute capability 9.0: what a kernel declares or gets without asking, and in all.
constexpr std::size_t kStaticBytes = 48 << 10, kSharedBytes = 227 << 10;
constexpr std::size_t kStackBytes = 256 << 10, kPage = 4096;

enum class State { Ready, AtBarrier, InWarp, Ended };

struct Fiber {
  void* stack_pointer = nullptr;
  std::byte* stack = nullptr;  // its lowest byte
  State state = State::Ended;
  unsigned rank = 0;  // of the thread in its block
  uint3 index{};
  void* fake_stack = nullptr;  // the address sanitizer's
};

struct Warp {
  WarpCall call{};
  unsigned mask = 0, arrived = 0, live = 0;
  unsigned current = 0;
  WarpValues values[2];  // of this exchange and of the last one, which may still be read
};

struct Freed {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte, Freed>;

struct Variable {
  Variable(const void* s, Memory m, std::size_t b) : site(s), memory(std::move(m)), bytes(b) {}
  const void* site;
  Memory memory;  // alone, so that the address sanitizer sees what goes beyond it
  std::size_t bytes;
  std::byte* begin = nullptr;
};

enum class Order { Ascending, Descending, Shuffled };

Order chosen_order() {
  const char* name = std::getenv("EMULATED_CUDA_ORDER");
  const std::string_view order = name == nullptr ? "ascending" : name;
  if (order == "ascending") return Order::Ascending;
  if (order == "descending") return Order::Descending;
  if (order == "shuffled") return Order::Shuffled;
  fail("EMULATED_CUDA_ORDER=%s", name);
}

struct alignas(16) Quad {
  std::byte bytes[16];
};
struct Launch {
  LaunchShape shape;
  std::vector<Quad> arguments;
  void (*body)(const void* arguments);
};

// The one that runs; there is never another, since the device is locked meanwhile.
class Block {
 public:
  Block();
  void run_grid(const Launch& launch);

  void* static_memory(const void* site, std::size_t bytes, std::size_t alignment);
  void* dynamic_memory() { return dynamic_.get(); }
  bool synchronize(bool predicate);
  unsigned lane() const { return running_->rank % kWarp; }
  const WarpValues& exchange(WarpCall call, unsigned mask, std::uint64_t value);

 private:
  [[noreturn]] static void enter();
  void start();
  void run();
  void resume(Fiber& fiber);
  void leave();  // of the running fiber, to the scheduler
  void release_barrier();
  void release_warp(Warp& warp);
  void end_thread();

  const Order order_ = chosen_order();
  std::mt19937 random_{1};
  std::vector<Fiber> fibers_;
  std::vector<unsigned> turns_;
  std::array<Warp, kMostThreads / kWarp> warps_;
  const Launch* launch_ = nullptr;
  Fiber* running_ = nullptr;
  void* scheduler_ = nullptr;                               // its stack
  [[maybe_unused]] const void* scheduler_stack_ = nullptr;  // as ASan knows it
  [[maybe_unused]] std::size_t scheduler_bytes_ = 0;
  unsigned live_ = 0, at_barrier_ = 0;
  bool any_ = false, last_any_ = false;
  std::size_t dynamic_bytes_ = 0, static_bytes_ = 0;
  std::unique_ptr<std::byte[]> dynamic_;
  std::vector<Variable> variables_;
};

Block& block() {
  static Block* const the_block = new Block;  // fibers are never unwound
  return *the_block;
}

Block::Block() : fibers_(kMostThreads) {
  const std::size_t each = kStackBytes + kPage;
  void* memory =
      mmap(nullptr, each * kMostThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("no memory for the stacks of %u threads", kMostThreads);
  watch_stacks(memory, each * kMostThreads);
  for (unsigned rank = 0; rank < kMostThreads; ++rank) {
    Fiber& fiber = fibers_[rank];
    fiber.rank = rank;
    std::byte* lowest = static_cast<std::byte*>(memory) + rank * each;
    mprotect(lowest, kPage, PROT_NONE);
    fiber.stack = lowest + kPage;
    // Stacks that begin at the same place of a page would share a few lines of the cache.
    auto* top = reinterpret_cast<void**>(fiber.stack + kStackBytes - rank % 8 * 448);
    *--top = nullptr;  // an address to return to, which aligns the stack as a call does
    *--top = reinterpret_cast<void*>(&Block::enter);
    top -= 6;  // registers
    std::fill_n(top, 6, nullptr);
    fiber.stack_pointer = top;
  }
}

void Block::enter() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &block().scheduler_stack_, &block().scheduler_bytes_);
#endif
  for (;;) {
    const Launch& launch = *block().launch_;
    launch.body(launch.arguments.data());
    block().end_thread();
  }
}

void Block::resume(Fiber& fiber) {
  running_ = &fiber;
  threadIdx = fiber.index;
  watch_thread(fiber.rank);
#ifdef __SANITIZE_ADDRESS__
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(&mine, fiber.stack, kStackBytes);
#endif
  emulated_switch(&scheduler_, fiber.stack_pointer);
  watch_host();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#endif
}

void Block::leave() {
  Fiber& fiber = *running_;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack_, scheduler_bytes_);
#endif
  emulated_switch(&fiber.stack_pointer, scheduler_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack_, &scheduler_bytes_);
#endif
}

void Block::run_grid(const Launch& launch) {
  const LaunchShape& shape = launch.shape;
  gridDim = shape.grid;
  blockDim = shape.block;
  launch_ = &launch;
  dynamic_bytes_ = shape.shared;
  dynamic_.reset(shape.shared == 0 ? nullptr : new std::byte[shape.shared]);
  if (dynamic_) watch(dynamic_.get(), shape.shared, true);
  watch_launch(launch.arguments.data(), launch.arguments.size() * sizeof(Quad));
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  turns_.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    turns_[i] = order_ == Order::Descending ? threads - 1 - i : i;
    fibers_[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  }
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        start();
        run();
      }
    }
  }
  if (dynamic_) forget(dynamic_.get());
  for (const Variable& v : variables_) forget(v.begin);
  variables_.clear();
  static_bytes_ = 0;
}

void Block::start() {
  watch_block();
  if (dynamic_bytes_ > 0) std::memset(dynamic_.get(), 0xFF, dynamic_bytes_);
  for (Variable& v : variables_) std::memset(v.begin, 0xFF, v.bytes);
  live_ = static_cast<unsigned>(turns_.size());
  for (unsigned i = 0; i < live_; ++i) fibers_[i].state = State::Ready;
  for (unsigned w = 0; w * kWarp < live_; ++w) {
    const unsigned lanes = std::min(kWarp, live_ - w * kWarp);
    warps_[w].live = lanes == kWarp ? ~0U : (1U << lanes) - 1;
  }
}

void Block::run() {
  while (live_ > 0) {
    if (order_ == Order::Shuffled) std::shuffle(turns_.begin(), turns_.end(), random_);
    bool moved = false;
    for (const unsigned turn : turns_) {
      if (fibers_[turn].state != State::Ready) continue;
      moved = true;
      resume(fibers_[turn]);
    }
    if (!moved)
      fail("block (%u, %u, %u): threads wait for each other at barriers that not all of them reach", blockIdx.x,
           blockIdx.y, blockIdx.z);
  }
}

void Block::release_barrier() {
  if (at_barrier_ == 0 || at_barrier_ < live_) return;
  for (const unsigned turn : turns_) {
    if (fibers_[turn].state == State::AtBarrier) fibers_[turn].state = State::Ready;
  }
  watch_barrier();
  at_barrier_ = 0;
  last_any_ = any_;
  any_ = false;
}

// A thread reads the answer before it, and with it all others, can reach the next barrier.
bool Block::synchronize(bool predicate) {
  any_ = any_ || predicate;
  ++at_barrier_;
  running_->state = State::AtBarrier;
  release_barrier();
  if (running_->state == State::AtBarrier) leave();
  return last_any_;
}

void Block::release_warp(Warp& warp) {
  if (warp.arrived == 0 || warp.arrived != (warp.mask & warp.live)) return;
  const auto index = static_cast<unsigned>(&warp - warps_.data()), first = index * kWarp;
  if (warp.call == WarpCall::Barrier) watch_warp(index);
  for (unsigned i = 0; i < kWarp; ++i) {
    if ((warp.arrived >> i & 1U) != 0) fibers_[first + i].state = State::Ready;
  }
  warp.values[warp.current].lanes = warp.arrived;
  warp.current ^= 1U;
  warp.arrived = 0;
}

const WarpValues& Block::exchange(WarpCall call, unsigned mask, std::uint64_t value) {
  Warp& warp = warps_[running_->rank / kWarp];
  if ((mask >> lane() & 1U) == 0) fail("lane %u calls with the mask %08x", lane(), mask);
  if (warp.arrived != 0 && (warp.call != call || warp.mask != mask)) fail("lanes of a warp are in different calls");
  warp.call = call;
  warp.mask = mask;
  WarpValues& values = warp.values[warp.current];
  values.value[lane()] = value;
  warp.arrived |= 1U << lane();
  running_->state = State::InWarp;
  release_warp(warp);
  if (running_->state == State::InWarp) leave();
  return values;
}

void Block::end_thread() {
  running_->state = State::Ended;
  --live_;
  Warp& warp = warps_[running_->rank / kWarp];
  warp.live &= ~(1U << lane());
  release_warp(warp);
  release_barrier();
  leave();
}

// At a multiple of its alignment and of no more, so that accesses that need more are seen (-fsanitize=alignment).
void* Block::static_memory(const void* site, std::size_t bytes, std::size_t alignment) {
  for (const Variable& v : variables_) {
    if (v.site == site) return v.begin;
  }
  static_bytes_ += bytes;
  if (static_bytes_ > kStaticBytes || static_bytes_ + dynamic_bytes_ > kSharedBytes)
    fail("a kernel has %zu bytes of static and %zu of dynamic shared memory", static_bytes_, dynamic_bytes_);
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max<std::size_t>(2 * alignment, 16), alignment + bytes) != 0) throw std::bad_alloc();
  Variable& v = variables_.emplace_back(site, Memory(static_cast<std::byte*>(memory)), bytes);
  v.begin = v.memory.get() + alignment;
  std::memset(v.begin, 0xFF, bytes);
  watch(v.begin, bytes, true);
  return v.begin;
}

}  // namespace

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("emulated GPU: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputs("\n", stderr);
  va_end(arguments);
  std::abort();
}

void start_grid(const LaunchShape& shape, const void* kernel, const void* arguments, std::size_t bytes,
                void (*body)(const void* arguments)) {
  const dim3 &g = shape.grid, &b = shape.block;
  const auto all = [](const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; };
  if (all(g) == 0 || g.x > 0x7FFFFFFFU || g.y > 0xFFFFU || g.z > 0xFFFFU || all(b) == 0 || all(b) > kMostThreads ||
      b.z > 64)
    return set_last_error(cudaErrorInvalidConfiguration);
  if (shape.shared > std::max(kStaticBytes, allowed_shared_bytes(kernel))) return set_last_error(cudaErrorInvalidValue);
  Launch launch{shape, std::vector<Quad>((bytes + sizeof(Quad) - 1) / sizeof(Quad)), body};
  std::memcpy(launch.arguments.data(), arguments, bytes);
  const cudaError_t code = enqueue(shape.stream, [launch = std::move(launch)] { block().run_grid(launch); });
  if (code != cudaSuccess) set_last_error(code);
}

void* static_memory(const void* site, std::size_t bytes, std::size_t alignment) {
  return block().static_memory(site, bytes, alignment);
}
void* dynamic_memory() { return block().dynamic_memory(); }
bool synchronize(bool predicate) { return block().synchronize(predicate); }
unsigned lane() { return block().lane(); }
const WarpValues& exchange(WarpCall call, unsigned mask, std::uint64_t value) {
  return block().exchange(call, mask, value);
}

std::uint64_t WarpValues::of(unsigned from) const {
  if (from >= kWarp || (lanes >> from & 1U) == 0) fail("a shuffle from lane %u, which takes no part", from);
  return value[from];
}
unsigned WarpValues::ones() const {
  unsigned bits = 0;
  for (unsigned i = 0; i < kWarp; ++i) bits |= (lanes >> i & 1U) != 0 && value[i] != 0 ? 1U << i : 0;
  return bits;
}

}  // namespace emulated
