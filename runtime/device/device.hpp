#pragma once
// The one interface of CPU and CUDA. Nothing outside the device files and the kernels asks which one it is.
//
// A Stream runs tasks in order. A CPU stream is inline (tasks run in the caller: the compute stream, whose kernels use
// threads inside) or a worker thread with a FIFO (the others); a CUDA stream calls the task at once, and the task
// launches work on native_handle(). Streams wait for streams; the host waits only in synchronize().

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace plimsoll {

// Work for a stream. A plain pointer pair, so that launching never allocates; `argument` outlives the execution.
struct Task {
  void (*run)(void*) = nullptr;
  void* argument = nullptr;
};

// A point in a stream. Reusable: record() again moves it.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool ready() const = 0;        // everything before the last record() is done (true if never recorded)
  virtual void synchronize() const = 0;  // block the host until ready
};

// Bytes from one place to another: of the arena, or of allocate_host().
struct Transfer {
  void* to = nullptr;
  const void* from = nullptr;
  std::int64_t bytes = 0;
};

// What a stream was given between begin_capture() and end_capture(), to be done again as one launch.
class Recording {
 public:
  virtual ~Recording() = default;
};

class Stream {
 public:
  virtual ~Stream() = default;
  virtual void launch(Task task) = 0;
  // Copies in the order of the stream; `transfer` and its memory outlive that.
  virtual void copy(const Transfer& transfer);
  // Only inside a task of this stream: after what the task has done so far.
  virtual void fill(void* device, std::uint8_t byte, std::int64_t bytes);
  // Likewise, and done on return where tasks run on a thread of the host: `count` blocks of `bytes` that lie so many
  // bytes apart in `to` and in `from`, none over another.
  virtual void copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride,
                           std::int64_t bytes, std::int64_t count);
  // Likewise: blocks the host until what the task has asked for so far is done. Where tasks run on the host it is.
  virtual void catch_up() {}
  void copy_bytes(void* to, const void* from, std::int64_t bytes) { copy_blocks(to, bytes, from, bytes, bytes, 1); }
  virtual void record(Event& event) = 0;
  virtual void wait(
      const Event& event) = 0;  // later tasks start after `event`; the host does not block (inline CPU streams do)
  // Blocks the host until all tasks are done. Rethrows the first exception a task threw.
  virtual void synchronize() = 0;
  virtual void* native_handle() { return nullptr; }  // cudaStream_t
  // What a task asks for may be under way when the task returns: a Timer says how long it takes. Elsewhere it is done
  // then, and the host's clock does.
  virtual bool only_launches() const { return false; }
  // Tasks that are launched now are recorded and not done. False: a launch costs nothing here, there is no recording.
  // What is recorded neither waits for an event of before nor synchronizes.
  virtual bool begin_capture() { return false; }
  virtual std::unique_ptr<Recording> end_capture();
  // After one of these two, or a task between them, threw: nothing is recorded any more, and nothing was done.
  virtual void drop_capture() noexcept {}
  virtual void replay(Recording& recording);
  // What the calling thread asks of the stream between the two has a name in the timeline of a profiler, where one
  // listens; ranges nest. `name` outlives both calls.
  virtual void begin_range(const char* /*name*/) {}
  virtual void end_range() {}
};

// A range for as long as this lives.
class NamedRange {
 public:
  NamedRange(Stream& stream, const char* name) : stream_(stream) { stream_.begin_range(name); }
  ~NamedRange() { stream_.end_range(); }
  NamedRange(const NamedRange&) = delete;
  NamedRange& operator=(const NamedRange&) = delete;

 private:
  Stream& stream_;
};

// How long a stream takes for what it is given between start() and stop(), on its own clock: neither the host's waiting
// nor what the stream did before counts. Not for streams of a GPU that are threads of the host.
class Timer {
 public:
  virtual ~Timer() = default;
  virtual void start(Stream& stream) = 0;
  virtual void stop(Stream& stream) = 0;
  virtual bool done() const = 0;  // the stream has come to stop()
  // Blocks the host until the stream has come to stop(). Rethrows what a task threw.
  virtual double seconds() = 0;
  // From start() of another timer of the device, of any stream, to that of this one. Both are done.
  virtual double seconds_after(const Timer& other) const = 0;
};

// True on a stream's own thread once that stream is being destroyed. A task that waits for others polls it and throws,
// so that an exception elsewhere in the process never hangs on a stream that waits for a lost peer.
bool stop_requested() noexcept;
// Of the calling thread, what stop_requested() polls (null: nothing), and how to make it poll something else: a module
// with its own copy of this library tells that of the program, whose transports run on the module's threads.
const std::atomic<bool>* stop_flag() noexcept;
void follow_stop_flag(const std::atomic<bool>* flag) noexcept;

// Tensor: communication inside split layers, which compute waits for; beside it, that of the other mesh axes goes on.
// Copy: between the memory of the device and that of the host.
enum class StreamKind { Compute, Communication, Tensor, Copy };
inline constexpr std::array<std::string_view, 4> kStreamNames{"compute", "communication", "tensor", "copy"};
inline constexpr std::size_t kStreamKinds = kStreamNames.size();
constexpr std::string_view stream_name(StreamKind kind) { return kStreamNames[static_cast<std::size_t>(kind)]; }
constexpr bool communicates(StreamKind kind) { return kind == StreamKind::Communication || kind == StreamKind::Tensor; }

struct DeviceMemory {
  std::int64_t total_bytes = 0;
  std::int64_t free_bytes = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view kind() const = 0;  // "cpu" | "cuda"
  virtual std::string description() const = 0;
  virtual DeviceMemory memory() const = 0;
  // What this process has of the device's memory besides allocate(): contexts and libraries. nullopt: it is the host's
  // memory, of which everything else of the process has its part.
  virtual std::optional<std::int64_t> outside_bytes() const { return std::nullopt; }
  virtual std::unique_ptr<Stream> make_stream(StreamKind kind) = 0;
  virtual std::unique_ptr<Event> make_event() = 0;
  // Unless a device has a clock of its own: tasks that read the host's. The device outlives it.
  virtual std::unique_ptr<Timer> make_timer();
  // The arena's allocation; everything else is host memory. Throws Error(OutOfMemory). Aligned to 4 KiB at least.
  virtual void* allocate(std::int64_t bytes) = 0;
  virtual void release(void* memory, std::int64_t bytes) noexcept = 0;
  // Memory of the host that the copy stream reaches at the full rate of the link; aligned, and failing, like
  // allocate().
  virtual void* allocate_host(std::int64_t bytes) = 0;
  virtual void release_host(void* memory, std::int64_t bytes) noexcept = 0;
  // Host-visible copies, synchronous; used outside the step (load, save, read results). `device` and fill(): also
  // memory of allocate_host().
  virtual void copy_to_device(void* device, const void* host, std::int64_t bytes) = 0;
  virtual void copy_to_host(void* host, const void* device, std::int64_t bytes) = 0;
  virtual void fill(void* device, std::uint8_t byte, std::int64_t bytes) = 0;
};

// CPU device. `threads` is what its kernels use (OpenMP); the compute stream is inline.
std::unique_ptr<Device> make_cpu_device(int threads);

}  // namespace plimsoll
