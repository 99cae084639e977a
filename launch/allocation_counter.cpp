#include "launch/allocation_counter.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace plimsoll {
namespace {

std::atomic<bool> counting{false};
std::atomic<std::int64_t> allocations{0};
thread_local bool in_node = false;

void* allocate_or_null(std::size_t bytes, std::size_t alignment) noexcept {
  if (in_node && counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t size = bytes == 0 ? 1 : bytes;
  return alignment <= alignof(std::max_align_t)
             ? std::malloc(size)
             : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  void* memory = allocate_or_null(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void AllocationCounter::start() {
  allocations = 0;
  counting = true;
}
std::int64_t AllocationCounter::count() { return allocations; }

void begin_counted_region() { in_node = true; }
void end_counted_region() { in_node = false; }

}  // namespace plimsoll

void* operator new(std::size_t bytes) { return plimsoll::allocate(bytes, 0); }
void* operator new[](std::size_t bytes) { return plimsoll::allocate(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return plimsoll::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return plimsoll::allocate(bytes, static_cast<std::size_t>(alignment));
}
// All forms: one left to the library (or a sanitizer) would take memory from elsewhere that these give to free().
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return plimsoll::allocate_or_null(bytes, 0); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return plimsoll::allocate_or_null(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return plimsoll::allocate_or_null(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return plimsoll::allocate_or_null(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }
