#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "tests/emulation/accesses.hpp"
#include "tests/emulation/device_state.hpp"
#include "tests/emulation/grid.hpp"

namespace emulated {
namespace {

constexpr std::size_t kOnesBytes = std::size_t{2} << 20;

// The allocation that holds all of a range; null: pageable memory of the host.
const Allocation* allocation_of(const void* memory, std::size_t bytes) {
  auto* at = static_cast<std::byte*>(const_cast<void*>(memory));
  const auto& all = device().allocations;
  auto found = all.upper_bound(at);
  if (found == all.begin()) return nullptr;
  --found;
  const std::size_t offset = static_cast<std::size_t>(at - found->first);
  if (offset >= found->second.bytes) return nullptr;
  if (bytes > found->second.bytes - offset) fail("a copy or a fill goes beyond its allocation");
  return &found->second;
}

cudaError_t enqueue_copy(cudaStream_t stream, std::byte* to, const std::byte* from, std::size_t extent_to,
                         std::size_t extent_from, const std::function<void(std::byte*, const std::byte*)>& copy) {
  Lock lock(device().mutex);
  const std::shared_ptr<CUstream_st> s = stream_of(stream);
  const bool from_pageable = allocation_of(from, extent_from) == nullptr;
  const bool to_pageable = allocation_of(to, extent_to) == nullptr;
  if (s->captured && (from_pageable || to_pageable)) {
    s->invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  Work work = [=] { copy(to, from); };
  if (from_pageable) {  // staged before the call returns
    const auto staged = std::make_shared<std::vector<std::byte>>(from, from + extent_from);
    work = [=] { copy(to, staged->data()); };
  }
  const cudaError_t code = enqueue(stream, std::move(work));
  if (code == cudaSuccess && to_pageable) run_until(*s, s->enqueued);
  return code;
}

// What would come out depends on the order of its bytes.
void overlap_check(const std::byte* to, const std::byte* from, std::size_t bytes) {
  if (to < from + bytes && from < to + bytes && to != from) fail("a copy between ranges that overlap");
}

// A file of ones, of which new memory is a copy that costs nothing until it is written.
int ones() {
  static const int file = [] {
    const int made = memfd_create("ones", 0);
    const std::vector<char> bytes(kOnesBytes, '\xFF');
    if (made < 0 || write(made, bytes.data(), kOnesBytes) != static_cast<ssize_t>(kOnesBytes)) fail("no file of ones");
    return made;
  }();
  return file;
}

cudaError_t allocate(void** memory, std::size_t bytes, bool host) {
  Lock lock(device().mutex);
  use_context();
  if (unsafe_now()) return failed(cudaErrorStreamCaptureUnsupported);
  const std::size_t size = (bytes + 4095) / 4096 * 4096;
  if (!host && size > kTotalBytes - std::min(kTotalBytes, device().used)) return failed(cudaErrorMemoryAllocation);
  // A page on either side is left out, so that what goes beyond dies.
  void* mapped = mmap(nullptr, size + 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
  auto* begin = static_cast<std::byte*>(mapped) + 4096;
  if (host) {
    mprotect(begin, size, PROT_READ | PROT_WRITE);
  } else {
    const int access = device().running == 0 ? PROT_NONE : PROT_READ | PROT_WRITE;
    for (std::size_t at = 0; at < size; at += kOnesBytes) {
      const std::size_t part = std::min(kOnesBytes, size - at);
      if (mmap(begin + at, part, access, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, ones(), 0) == MAP_FAILED)
        fail("memory of the device is not mapped");
    }
    device().used += size;
  }
  watch(begin, size);
  device().allocations[begin] = {size, host};
  *memory = begin;
  return cudaSuccess;
}

cudaError_t release(void* memory, bool host) {
  Lock lock(device().mutex);
  use_context();
  if (memory == nullptr) return cudaSuccess;
  if (unsafe_now()) return failed(cudaErrorStreamCaptureUnsupported);
  const auto at = device().allocations.find(static_cast<std::byte*>(memory));
  if (at == device().allocations.end() || at->second.host != host) return failed(cudaErrorInvalidValue);
  run_everything();
  if (!host) device().used -= at->second.bytes;
  forget(memory);
  munmap(at->first - 4096, at->second.bytes + 2 * 4096);
  device().allocations.erase(at);
  return cudaSuccess;
}

}  // namespace

void protect_memory(bool reached) {
  for (const auto& [begin, allocation] : device().allocations) {
    if (!allocation.host) mprotect(begin, allocation.bytes, reached ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
}

}  // namespace emulated

using namespace emulated;

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  Lock lock(device().mutex);
  use_context();
  *total = kTotalBytes;
  *free = kTotalBytes - std::min(kTotalBytes, device().used);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) { return allocate(memory, bytes, false); }
cudaError_t cudaFree(void* memory) { return release(memory, false); }
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) { return allocate(memory, bytes, true); }
cudaError_t cudaFreeHost(void* memory) { return release(memory, true); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind != cudaMemcpyDefault) fail("a copy that says where to");
  if (bytes == 0) return cudaSuccess;
  return enqueue_copy(stream, static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, bytes,
                      [bytes](std::byte* t, const std::byte* f) {
                        overlap_check(t, f, bytes);
                        std::memmove(t, f, bytes);
                      });
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind != cudaMemcpyDefault) fail("a copy that says where to");
  if (width > to_pitch || width > from_pitch) return failed(cudaErrorInvalidPitchValue);
  if (width == 0 || height == 0) return cudaSuccess;
  return enqueue_copy(stream, static_cast<std::byte*>(to), static_cast<const std::byte*>(from),
                      (height - 1) * to_pitch + width, (height - 1) * from_pitch + width,
                      [=](std::byte* t, const std::byte* f) {
                        for (std::size_t row = 0; row < height; ++row) {
                          overlap_check(t + row * to_pitch, f + row * from_pitch, width);
                          std::memmove(t + row * to_pitch, f + row * from_pitch, width);
                        }
                      });
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  Lock lock(device().mutex);
  if (allocation_of(memory, bytes) == nullptr) return failed(cudaErrorInvalidValue);
  return enqueue(stream, [=] { std::memset(memory, value, bytes); });
}
