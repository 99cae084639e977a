#include "kernels/cuda/stream.hpp"

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/ranges.hpp"
#include "runtime/core/error.hpp"
#include "runtime/device/cpu_stream.hpp"

namespace plimsoll {
namespace {

// Has the device come to where it was recorded last?
bool is_reached(cudaEvent_t event) {
  const cudaError_t code = cudaEventQuery(event);
  if (code != cudaErrorNotReady) check_cuda(code, "cudaEventQuery");
  if (code == cudaErrorNotReady) cudaGetLastError();  // the next launch would take it for its own
  return code == cudaSuccess;
}

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(int device) : hosted(make_cpu_event()), device_(device) {
    use_device(device);
    check_cuda(cudaEventCreateWithFlags(&native, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~CudaEvent() override { cudaEventDestroy(native); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  bool ready() const override {
    if (on_thread) return hosted->ready();
    use_device(device_);  // the watchdog's thread asks too: another device would get a context for it
    return is_reached(native);
  }
  void synchronize() const override {
    if (on_thread) return hosted->synchronize();
    use_device(device_);
    check_cuda(cudaEventSynchronize(native), "cudaEventSynchronize");
  }

  cudaEvent_t native = nullptr;
  std::unique_ptr<Event> hosted;
  bool on_thread = false;  // the last record() was on a hosted stream

 private:
  int device_;
};

class CudaTimer final : public Timer {
 public:
  explicit CudaTimer(int device) {
    use_device(device);
    check_cuda(cudaEventCreate(&begin_), "cudaEventCreate");
    check_cuda(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~CudaTimer() override {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  CudaTimer(const CudaTimer&) = delete;
  CudaTimer& operator=(const CudaTimer&) = delete;

  void start(Stream& stream) override { record(begin_, stream); }
  void stop(Stream& stream) override { record(end_, stream); }
  bool done() const override { return is_reached(end_); }
  double seconds() override {
    check_cuda(cudaEventSynchronize(end_), "cudaEventSynchronize");
    return elapsed(begin_, end_);
  }
  double seconds_after(const Timer& other) const override {
    return elapsed(static_cast<const CudaTimer&>(other).begin_, begin_);
  }

 private:
  static void record(cudaEvent_t event, Stream& stream) {
    check_cuda(cudaEventRecord(event, static_cast<cudaStream_t>(stream.native_handle())), "cudaEventRecord");
  }
  static double elapsed(cudaEvent_t from, cudaEvent_t to) {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, from, to), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

CudaEvent& cuda_event(const Event& event) {
  const auto* cuda = dynamic_cast<const CudaEvent*>(&event);
  require(cuda != nullptr, ErrorKind::Internal, "a CUDA stream was given the event of another device");
  return const_cast<CudaEvent&>(*cuda);
}

class CudaRecording final : public Recording {
 public:
  explicit CudaRecording(cudaGraph_t graph) {
    const cudaError_t code = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(code, "cudaGraphInstantiate");
  }
  ~CudaRecording() override { cudaGraphExecDestroy(executable); }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  cudaGraphExec_t executable = nullptr;
};

// A cudaStream_t that waits for no other stream by itself.
class Handle {
 public:
  Handle(int device, StreamKind kind) {
    use_device(device);
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    // What others wait for goes first: messages are short beside what computes.
    check_cuda(
        cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, kind == StreamKind::Compute ? least : greatest),
        "cudaStreamCreate");
  }
  ~Handle() { cudaStreamDestroy(stream_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

void copy_blocks_async(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride, std::int64_t bytes,
                       std::int64_t count, cudaStream_t stream) {
  if (bytes == 0 || count == 0) return;
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  if (count == 1) {
    check_cuda(cudaMemcpyAsync(to, from, size(bytes), cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  } else {
    check_cuda(cudaMemcpy2DAsync(to, size(to_stride), from, size(from_stride), size(bytes), size(count),
                                 cudaMemcpyDefault, stream),
               "cudaMemcpy2DAsync");
  }
}

class NativeStream final : public Stream {
 public:
  NativeStream(int device, StreamKind kind) : device_(device), handle_(device, kind) {}

  void launch(Task task) override {
    use_device(device_);
    task.run(task.argument);
  }
  void copy(const Transfer& t) override {
    use_device(device_);
    check_cuda(cudaMemcpyAsync(t.to, t.from, static_cast<std::size_t>(t.bytes), cudaMemcpyDefault, handle_.get()),
               "cudaMemcpyAsync");
  }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
    check_cuda(cudaMemsetAsync(device, byte, static_cast<std::size_t>(bytes), handle_.get()), "cudaMemsetAsync");
  }
  void copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride, std::int64_t bytes,
                   std::int64_t count) override {
    copy_blocks_async(to, to_stride, from, from_stride, bytes, count, handle_.get());
  }
  void catch_up() override { synchronize(); }
  void record(Event& event) override {
    CudaEvent& cuda = cuda_event(event);
    cuda.on_thread = false;
    check_cuda(cudaEventRecord(cuda.native, handle_.get()), "cudaEventRecord");
  }
  void wait(const Event& event) override {
    const CudaEvent& cuda = cuda_event(event);
    if (cuda.on_thread) return cuda.synchronize();
    check_cuda(cudaStreamWaitEvent(handle_.get(), cuda.native, 0), "cudaStreamWaitEvent");
  }
  void synchronize() override { check_cuda(cudaStreamSynchronize(handle_.get()), "cudaStreamSynchronize"); }
  void* native_handle() override { return handle_.get(); }
  bool only_launches() const override { return true; }

  bool begin_capture() override {
    use_device(device_);
    check_cuda(cudaStreamBeginCapture(handle_.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    return true;
  }
  std::unique_ptr<Recording> end_capture() override {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamEndCapture(handle_.get(), &graph), "cudaStreamEndCapture");
    return std::make_unique<CudaRecording>(graph);
  }
  void drop_capture() noexcept override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = nullptr;
    if (cudaStreamIsCapturing(handle_.get(), &status) == cudaSuccess && status != cudaStreamCaptureStatusNone)
      cudaStreamEndCapture(handle_.get(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // the next launch would take it for its own
  }
  void replay(Recording& recording) override {
    use_device(device_);
    check_cuda(cudaGraphLaunch(static_cast<CudaRecording&>(recording).executable, handle_.get()), "cudaGraphLaunch");
  }
  void begin_range(const char* name) override { push_range(name); }
  void end_range() override { pop_range(); }

 private:
  int device_;
  Handle handle_;
};

class HostedStream final : public Stream {
 public:
  explicit HostedStream(const CudaDeviceOptions& options)
      : options_(options), handle_(options.index, StreamKind::Communication), thread_(make_worker_stream()) {
    thread_->launch({[](void* s) {
                       const auto& mine = *static_cast<HostedStream*>(s);
                       use_device(mine.options_.index);
                       mine.options_.follow_stop_flag(stop_flag());
                     },
                     this});
  }

  void launch(Task task) override {
    thread_->launch(task);
    thread_->launch({[](void* s) { static_cast<HostedStream*>(s)->catch_up(); }, this});
  }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
    check_cuda(cudaMemsetAsync(device, byte, static_cast<std::size_t>(bytes), handle_.get()), "cudaMemsetAsync");
  }
  void copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride, std::int64_t bytes,
                   std::int64_t count) override {
    copy_blocks_async(to, to_stride, from, from_stride, bytes, count, handle_.get());
    catch_up();
  }
  void catch_up() override { check_cuda(cudaStreamSynchronize(handle_.get()), "cudaStreamSynchronize"); }
  void copy(const Transfer& transfer) override {
    // A task has one argument, the transfer: so it goes over the stream of the thread.
    launch({[](void* t) {
              const auto* mine = static_cast<const Transfer*>(t);
              check_cuda(cudaMemcpyAsync(mine->to, mine->from, static_cast<std::size_t>(mine->bytes), cudaMemcpyDefault,
                                         cudaStreamPerThread),
                         "cudaMemcpyAsync");
              check_cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
            },
            const_cast<Transfer*>(&transfer)});
  }
  void record(Event& event) override {
    CudaEvent& cuda = cuda_event(event);
    cuda.on_thread = true;
    thread_->record(*cuda.hosted);
  }
  // Also where the event is recorded again before the thread gets here: it then waits for more than it must, which
  // comes without this stream, since whoever waits for this one blocks the host.
  void wait(const Event& event) override {
    const CudaEvent& cuda = cuda_event(event);
    if (cuda.on_thread) return thread_->wait(*cuda.hosted);
    thread_->launch(
        {[](void* e) { check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(e)), "cudaEventSynchronize"); },
         cuda.native});
  }
  void synchronize() override { thread_->synchronize(); }
  void* native_handle() override { return handle_.get(); }
  void begin_range(const char* name) override { push_range(name); }
  void end_range() override { pop_range(); }

 private:
  CudaDeviceOptions options_;
  Handle handle_;
  std::unique_ptr<Stream> thread_;  // last: it uses everything above
};

}  // namespace

void use_device(int device) { check_cuda(cudaSetDevice(device), "cudaSetDevice"); }

std::unique_ptr<Stream> make_native_stream(int device, StreamKind kind) {
  return std::make_unique<NativeStream>(device, kind);
}
std::unique_ptr<Stream> make_hosted_stream(const CudaDeviceOptions& options) {
  return std::make_unique<HostedStream>(options);
}
std::unique_ptr<Timer> make_cuda_timer(int device) { return std::make_unique<CudaTimer>(device); }
std::unique_ptr<Event> make_cuda_event(int device) { return std::make_unique<CudaEvent>(device); }

}  // namespace plimsoll
