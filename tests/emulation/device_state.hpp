#pragma once
// What the functions of the emulated CUDA runtime share: what its handles point at, the device, and what the calling
// thread has of it.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "tests/emulation/device.hpp"

namespace emulated {

constexpr std::size_t kTotalBytes = std::size_t{16} << 30;

// When an event happened.
struct Moment {
  bool past = false;
  std::chrono::steady_clock::time_point time;
};

}  // namespace emulated

// What CUDA's handles point at.
struct CUgraph_st {
  std::vector<emulated::Work> works;
};
struct CUgraphExec_st {
  std::shared_ptr<std::vector<emulated::Work>> works;
};
struct CUstream_st {
  std::deque<emulated::Work> works;
  std::uint64_t enqueued = 0, done = 0;
  std::unique_ptr<CUgraph_st> captured;  // while it captures
  bool invalid = false;                  // the capture
};
struct CUevent_st {
  bool timed = true;
  std::shared_ptr<CUstream_st> stream;  // of the last record; null: none
  std::uint64_t ticket = 0;             // in that stream
  std::shared_ptr<emulated::Moment> moment;
  const CUgraph_st* captured = nullptr;  // the last record was captured
};

namespace emulated {

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
Device& device();

struct ThreadState {
  cudaError_t last_error = cudaSuccess;
  std::shared_ptr<CUstream_st> own = std::make_shared<CUstream_st>();  // cudaStreamPerThread
  std::set<CUstream_st*> capturing;
};
ThreadState& this_thread();

using Lock = std::lock_guard<std::recursive_mutex>;

// The code, which is the thread's last error now unless it is success.
cudaError_t failed(cudaError_t code);

// The first call that needs one makes it, and takes memory for it.
void use_context();

// True: this thread captures, in a mode that is not relaxed, and may not call what asks; its captures are invalid now.
bool unsafe_now();

std::shared_ptr<CUstream_st> stream_of(cudaStream_t stream);

// Runs what the stream was given, up to that of this number.
void run_until(CUstream_st& stream, std::uint64_t ticket);
void run_everything();

// Whether work may reach the device's memory, while no other does.
void protect_memory(bool reached);

}  // namespace emulated
