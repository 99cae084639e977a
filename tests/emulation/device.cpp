#include "tests/emulation/device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>
#include <vector>

#include "tests/emulation/accesses.hpp"
#include "tests/emulation/grid.hpp"

namespace {

using emulated::fail;
using emulated::Work;

constexpr std::size_t kTotalBytes = std::size_t{16} << 30, kContextBytes = std::size_t{400} << 20;
constexpr std::size_t kOnesBytes = std::size_t{2} << 20;
constexpr std::uint64_t kOpsPerQuery = 16;  // an event that is asked for gets there in the end

// When an event happened.
struct Moment {
  bool past = false;
  std::chrono::steady_clock::time_point time;
};

}  // namespace

// What CUDA's handles point at.
struct CUgraph_st {
  std::vector<Work> works;
};
struct CUgraphExec_st {
  std::shared_ptr<std::vector<Work>> works;
};
struct CUstream_st {
  std::deque<Work> works;
  std::uint64_t enqueued = 0, done = 0;
  std::unique_ptr<CUgraph_st> captured;  // while it captures
  bool invalid = false;                  // the capture
};
struct CUevent_st {
  bool timed = true;
  std::shared_ptr<CUstream_st> stream;  // of the last record; null: none
  std::uint64_t ticket = 0;             // in that stream
  std::shared_ptr<Moment> moment;
  const CUgraph_st* captured = nullptr;  // the last record was captured
};

namespace {

struct Allocation {
  std::size_t bytes = 0;
  bool host = false;
};

// The device, whose mutex every call holds.
struct Device {
  std::recursive_mutex mutex;
  std::map<std::byte*, Allocation> allocations;
  std::map<CUstream_st*, std::shared_ptr<CUstream_st>> streams;
  std::map<const void*, std::size_t> shared_bytes;  // by kernel
  std::size_t used = 0;                             // of device memory
  bool has_context = false;
  int running = 0;  // how deep
};

Device& device() {
  static Device* const the_device = new Device;
  return *the_device;
}

struct ThreadState {
  cudaError_t last_error = cudaSuccess;
  std::shared_ptr<CUstream_st> own = std::make_shared<CUstream_st>();  // cudaStreamPerThread
  std::set<CUstream_st*> capturing;
};
ThreadState& this_thread() {
  thread_local ThreadState state;
  return state;
}

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t failed(cudaError_t code) {
  if (code != cudaSuccess) this_thread().last_error = code;
  return code;
}

bool eager() {
  static const bool chosen = [] {
    const char* name = std::getenv("EMULATED_CUDA_STREAMS");
    if (name == nullptr || std::string_view(name) == "lazy") return false;
    if (std::string_view(name) == "eager") return true;
    fail("EMULATED_CUDA_STREAMS=%s", name);
  }();
  return chosen;
}

int device_count() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible != nullptr && std::string_view(visible).empty() ? 0 : 1;
}

void use_context() {
  Device& d = device();
  if (d.has_context) return;
  d.has_context = true;
  d.used += kContextBytes;
}

// Makes the device's memory accessible while work runs.
class Running {
 public:
  Running() {
    if (device().running++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Running() {
    if (--device().running == 0) protect(PROT_NONE);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  static void protect(int access) {
    for (const auto& [begin, allocation] : device().allocations) {
      if (!allocation.host) mprotect(begin, allocation.bytes, access);
    }
  }
};

void run_until(CUstream_st& stream, std::uint64_t ticket) {
  if (stream.done >= ticket) return;
  const Running running;
  while (stream.done < ticket) {
    const Work work = std::move(stream.works.front());
    stream.works.pop_front();
    work();
    ++stream.done;
  }
}

void run_everything() {
  run_until(*this_thread().own, this_thread().own->enqueued);
  for (const auto& [pointer, stream] : device().streams) run_until(*stream, stream->enqueued);
}

std::shared_ptr<CUstream_st> stream_of(cudaStream_t stream) {
  if (stream == cudaStreamPerThread) return this_thread().own;
  // Ours block nobody and are blocked by nobody: the default stream, which does both, is not known here.
  if (stream == nullptr || stream == cudaStreamLegacy) fail("the default stream is used");
  const auto at = device().streams.find(stream);
  if (at == device().streams.end()) fail("a stream that does not exist");
  return at->second;
}

// What no thread may call while it captures in a mode that is not relaxed.
bool unsafe_now() {
  for (CUstream_st* stream : this_thread().capturing) stream->invalid = true;
  return !this_thread().capturing.empty();
}

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
                         std::size_t extent_from, std::function<void(std::byte*, const std::byte*)> copy) {
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
  const cudaError_t code = emulated::enqueue(stream, std::move(work));
  if (code == cudaSuccess && to_pageable) run_until(*s, s->enqueued);
  return code;
}

// In no particular order.
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
    for (std::size_t at = 0; at < size; at += kOnesBytes)
      mmap(begin + at, std::min(kOnesBytes, size - at), access, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, ones(), 0);
    device().used += size;
  }
  emulated::watch(begin, size);
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
  emulated::forget(memory);
  munmap(at->first - 4096, at->second.bytes + 2 * 4096);
  device().allocations.erase(at);
  return cudaSuccess;
}

}  // namespace

namespace emulated {

cudaError_t enqueue(cudaStream_t stream, Work work) {
  Lock lock(device().mutex);
  use_context();
  const std::shared_ptr<CUstream_st> s = stream_of(stream);
  if (s->captured) {
    s->captured->works.push_back(std::move(work));
    return cudaSuccess;
  }
  s->works.push_back(std::move(work));
  ++s->enqueued;
  if (eager()) run_until(*s, s->enqueued);
  return cudaSuccess;
}

void set_last_error(cudaError_t code) { failed(code); }

std::size_t allowed_shared_bytes(const void* kernel) {
  Lock lock(device().mutex);
  const auto at = device().shared_bytes.find(kernel);
  return at == device().shared_bytes.end() ? 0 : at->second;
}

void load_library(std::size_t bytes) {
  Lock lock(device().mutex);
  device().used += bytes;
}

}  // namespace emulated

// The runtime's functions, as cuda_runtime_api.h declares and describes them.

cudaError_t cudaGetLastError() {
  const cudaError_t code = this_thread().last_error;
  this_thread().last_error = cudaSuccess;
  return code;
}

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "no error";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    default: return "an error of the emulated GPU";
  }
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (device_count() == 0) return failed(cudaErrorNoDevice);
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) {
  if (index != 0 || device_count() == 0) return failed(cudaErrorInvalidDevice);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
  if (index != 0) return failed(cudaErrorInvalidDevice);
  *properties = {};
  // Known to the table of devices, so that nobody measures it.
  std::snprintf(properties->name, sizeof properties->name, "NVIDIA H200 (emulated)");
  properties->major = 9;
  properties->totalGlobalMem = kTotalBytes;
  properties->warpSize = 32;
  properties->multiProcessorCount = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int) {
  std::snprintf(id, static_cast<std::size_t>(bytes), "0000:EE:00.0");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

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
  return emulated::enqueue(stream, [=] { std::memset(memory, value, bytes); });
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) fail("cudaFuncSetAttribute(%d)", attribute);
  if (value < 0 || value > 227 * 1024) return failed(cudaErrorInvalidValue);
  Lock lock(device().mutex);
  device().shared_bytes[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  if (flags != cudaStreamNonBlocking) fail("a stream that the default stream blocks");
  Lock lock(device().mutex);
  use_context();
  const auto made = std::make_shared<CUstream_st>();
  device().streams[made.get()] = made;
  *stream = made.get();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(device().mutex);
  const auto s = stream_of(stream);
  run_until(*s, s->enqueued);
  device().streams.erase(stream);
  this_thread().capturing.erase(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(device().mutex);
  if (unsafe_now()) return failed(cudaErrorStreamCaptureUnsupported);
  const auto s = stream_of(stream);
  run_until(*s, s->enqueued);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(device().mutex);
  const auto s = stream_of(stream);
  if (event->captured != nullptr) {
    // A stream may only wait for what itself has captured: no capture of ours has several.
    if (s->captured.get() == event->captured) return cudaSuccess;
    return failed(cudaErrorStreamCaptureIsolation);
  }
  if (s->captured) {
    s->invalid = true;
    return failed(cudaErrorStreamCaptureIsolation);
  }
  if (event->stream == nullptr) return cudaSuccess;
  return emulated::enqueue(stream, [other = event->stream, ticket = event->ticket] { run_until(*other, ticket); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  Lock lock(device().mutex);
  use_context();
  *event = new CUevent_st;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(device().mutex);
  const auto s = stream_of(stream);
  event->captured = s->captured.get();
  if (s->captured) return cudaSuccess;
  const auto moment = std::make_shared<Moment>();
  event->stream = s;
  event->moment = moment;
  event->ticket = s->enqueued + 1;
  return emulated::enqueue(stream, [moment] { *moment = {true, std::chrono::steady_clock::now()}; });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(device().mutex);
  if (unsafe_now()) return failed(cudaErrorStreamCaptureUnsupported);
  if (event->captured != nullptr) return failed(cudaErrorCapturedEvent);
  if (event->stream == nullptr || event->moment->past) return cudaSuccess;
  run_until(*event->stream, std::min(event->ticket, event->stream->done + kOpsPerQuery));
  return event->moment->past ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(device().mutex);
  if (unsafe_now()) return failed(cudaErrorStreamCaptureUnsupported);
  if (event->captured != nullptr) return failed(cudaErrorCapturedEvent);
  if (event->stream != nullptr) run_until(*event->stream, event->ticket);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  Lock lock(device().mutex);
  if (!begin->timed || !end->timed || begin->stream == nullptr || end->stream == nullptr)
    return failed(cudaErrorInvalidResourceHandle);
  if (!begin->moment->past || !end->moment->past) return failed(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->moment->time - begin->moment->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (mode != cudaStreamCaptureModeThreadLocal) fail("a capture that other threads can break");
  Lock lock(device().mutex);
  const auto s = stream_of(stream);
  if (s->captured) return failed(cudaErrorIllegalState);
  s->captured = std::make_unique<CUgraph_st>();
  s->invalid = false;
  this_thread().capturing.insert(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(device().mutex);
  const auto s = stream_of(stream);
  if (!s->captured) return failed(cudaErrorIllegalState);
  if (this_thread().capturing.erase(stream) == 0) return failed(cudaErrorStreamCaptureWrongThread);
  const std::unique_ptr<CUgraph_st> captured = std::move(s->captured);
  *graph = nullptr;
  if (s->invalid) return failed(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(device().mutex);
  const auto s = stream_of(stream);
  *status = !s->captured ? cudaStreamCaptureStatusNone
            : s->invalid ? cudaStreamCaptureStatusInvalidated
                         : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{std::make_shared<std::vector<Work>>(graph->works)};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return emulated::enqueue(stream, [works = executable->works] {
    for (const Work& work : *works) work();
  });
}
