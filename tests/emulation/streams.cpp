#include <cstdlib>
#include <string_view>

#include "tests/emulation/device_state.hpp"
#include "tests/emulation/grid.hpp"

namespace emulated {
namespace {

constexpr std::uint64_t kOpsPerQuery = 16;  // an event that is asked for gets there in the end

bool eager() {
  static const bool chosen = [] {
    const char* name = std::getenv("EMULATED_CUDA_STREAMS");
    if (name == nullptr || std::string_view(name) == "lazy") return false;
    if (std::string_view(name) == "eager") return true;
    fail("EMULATED_CUDA_STREAMS=%s", name);
  }();
  return chosen;
}

// Makes the device's memory accessible while work runs.
class Running {
 public:
  Running() {
    if (device().running++ == 0) protect_memory(true);
  }
  ~Running() {
    if (--device().running == 0) protect_memory(false);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
};

}  // namespace

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

}  // namespace emulated

using namespace emulated;

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
  return enqueue(stream, [other = event->stream, ticket = event->ticket] { run_until(*other, ticket); });
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
  return enqueue(stream, [moment] { *moment = {true, std::chrono::steady_clock::now()}; });
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
  return enqueue(stream, [works = executable->works] {
    for (const Work& work : *works) work();
  });
}
