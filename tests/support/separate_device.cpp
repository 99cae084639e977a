#include "tests/support/separate_device.hpp"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/cpu/register.hpp"
#include "runtime/core/error.hpp"
#include "runtime/device/cpu_stream.hpp"

namespace plimsoll::test {
namespace {

// Who may use the memory now. Messages between ranks come when they come, so tasks of communication streams open it
// whenever they run; the others wait until the host is inside the device, and it leaves when they are done.
class Gate {
 public:
  void add(void* memory, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    regions_[memory] = bytes;
    protect(memory, bytes);
  }
  void remove(void* memory) {
    const std::lock_guard lock(mutex_);
    regions_.erase(memory);
  }

  void task_begins(bool waits_for_host) {
    std::unique_lock lock(mutex_);
    while (waits_for_host && host_inside_ == 0) {
      require(!stop_requested(), ErrorKind::Internal, "a stream was destroyed before its tasks had run");
      changed_.wait_for(lock, std::chrono::milliseconds(20));
    }
    behind_host_ += waits_for_host ? 1 : 0;
    if (++running_ == 1) protect_all();
  }
  void task_ends(bool waits_for_host) {
    const std::lock_guard lock(mutex_);
    behind_host_ -= waits_for_host ? 1 : 0;
    if (--running_ == 0) protect_all();
    changed_.notify_all();
  }
  void host_enters() {
    const std::lock_guard lock(mutex_);
    ++host_inside_;
    changed_.notify_all();
  }
  // A failed stream drops the end of its task.
  void host_leaves(bool failed) {
    std::unique_lock lock(mutex_);
    if (!failed) changed_.wait(lock, [&] { return behind_host_ == 0; });
    --host_inside_;
  }

 private:
  void protect(void* memory, std::size_t bytes) {
    mprotect(memory, bytes, running_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
  void protect_all() {
    for (const auto& [memory, bytes] : regions_) protect(memory, bytes);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<void*, std::size_t> regions_;
  int host_inside_ = 0, behind_host_ = 0, running_ = 0;
};

class HostInside {
 public:
  explicit HostInside(Gate& gate) : gate_(gate), exceptions_(std::uncaught_exceptions()) { gate_.host_enters(); }
  ~HostInside() { gate_.host_leaves(std::uncaught_exceptions() > exceptions_); }
  HostInside(const HostInside&) = delete;
  HostInside& operator=(const HostInside&) = delete;

 private:
  Gate& gate_;
  int exceptions_;
};

// By name, how often a range began; and how many have not ended.
class RangeLog {
 public:
  void begin(const char* name) {
    const std::lock_guard lock(mutex_);
    ++begun_[name];
    ++open_[std::this_thread::get_id()];
  }
  void end() {
    const std::lock_guard lock(mutex_);
    require(open_[std::this_thread::get_id()]-- > 0, ErrorKind::Internal, "a range ends on a thread that began none");
  }
  std::map<std::string, std::int64_t> begun() const {
    const std::lock_guard lock(mutex_);
    for (const auto& [thread, open] : open_) require(open == 0, ErrorKind::Internal, "{} ranges have not ended", open);
    return begun_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::int64_t> begun_;
  std::map<std::thread::id, std::int64_t> open_;
};

struct Shared {
  Gate gate;
  RangeLog ranges;
  std::atomic<std::int64_t> copies = 0, synchronizations = 0, captures = 0, replays = 0;
};

class SeparateEvent final : public Event {
 public:
  explicit SeparateEvent(Shared& shared) : shared_(shared) {}
  bool ready() const override { return inner->ready(); }
  void synchronize() const override {
    const HostInside inside(shared_.gate);
    inner->synchronize();
  }
  std::unique_ptr<Event> inner = make_cpu_event();

 private:
  Shared& shared_;
};

Event& inner_of(const Event& event) { return *dynamic_cast<const SeparateEvent&>(event).inner; }

struct TaskList final : Recording {
  std::vector<Task> tasks;
};

class SeparateStream final : public Stream {
 public:
  SeparateStream(Shared& shared, StreamKind kind, bool records)
      : shared_(shared), late_(!communicates(kind)), records_(records), inner_(make_worker_stream()) {
    inner_->launch({[](void*) { omp_set_num_threads(1); }, nullptr});
  }

  void launch(Task task) override {
    if (recorded_) return recorded_->tasks.push_back(task);
    make_room();
    inner_->launch({[](void* s) { static_cast<SeparateStream*>(s)->begin(); }, this});
    inner_->launch(task);
    inner_->launch({[](void* s) { static_cast<SeparateStream*>(s)->end(); }, this});
  }
  void record(Event& event) override {
    require(!recorded_, ErrorKind::Internal, "an event of what is recorded");
    inner_->record(inner_of(event));
  }
  void wait(const Event& event) override {
    require(!recorded_, ErrorKind::Internal, "a wait in what is recorded");
    make_room();
    inner_->wait(inner_of(event));
  }
  void synchronize() override {
    ++shared_.synchronizations;
    const HostInside inside(shared_.gate);
    inner_->synchronize();
    queued_ = 0;
  }

  void* native_handle() override { return this; }
  bool only_launches() const override { return late_; }

  bool begin_capture() override {
    if (!records_) return false;
    recorded_ = std::make_unique<TaskList>();
    return true;
  }
  std::unique_ptr<Recording> end_capture() override {
    ++shared_.captures;
    return std::move(recorded_);
  }
  void drop_capture() noexcept override { recorded_.reset(); }
  void replay(Recording& recording) override {
    ++shared_.replays;
    for (const Task& task : static_cast<TaskList&>(recording).tasks) launch(task);
  }
  void begin_range(const char* name) override { shared_.ranges.begin(name); }
  void end_range() override { shared_.ranges.end(); }

 private:
  void make_room() {
    if (++queued_ < kMostQueued) return;
    const HostInside inside(shared_.gate);
    inner_->synchronize();
    queued_ = 1;
  }
  void begin() { shared_.gate.task_begins(late_); }
  void end() { shared_.gate.task_ends(late_); }

  Shared& shared_;
  // A task is three entries of the queue, a wait is one: beyond, launch() of the inner stream would block.
  static constexpr int kMostQueued = kStreamCapacity / 4;

  bool late_, records_;
  int queued_ = 0;  // since the queue was empty
  std::unique_ptr<TaskList> recorded_;
  std::unique_ptr<Stream> inner_;  // last: its thread uses everything above
};

class Separate final : public SeparateDevice {
 public:
  Separate(bool records, OutsideBytes outside) : records_(records), outside_(std::move(outside)) {}

  std::string_view kind() const override { return "separate"; }
  std::string description() const override { return "a device of its own memory, for tests"; }
  DeviceMemory memory() const override { return cpu_->memory(); }
  std::optional<std::int64_t> outside_bytes() const override {
    return outside_ ? std::optional(outside_()) : std::nullopt;
  }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    return std::make_unique<SeparateStream>(shared_, kind, records_);
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<SeparateEvent>(shared_); }
  void* allocate(std::int64_t bytes) override {
    void* memory = cpu_->allocate(bytes);
    shared_.gate.add(memory, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1)));
    return memory;
  }
  void release(void* memory, std::int64_t bytes) noexcept override {
    shared_.gate.remove(memory);
    cpu_->release(memory, bytes);
  }
  void* allocate_host(std::int64_t bytes) override { return cpu_->allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { cpu_->release_host(memory, bytes); }
  void copy_to_device(void* device, const void* host, std::int64_t bytes) override {
    at_once([&] { std::memcpy(device, host, static_cast<std::size_t>(bytes)); });
  }
  void copy_to_host(void* host, const void* device, std::int64_t bytes) override {
    at_once([&] { std::memcpy(host, device, static_cast<std::size_t>(bytes)); });
  }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
    at_once([&] { std::memset(device, byte, static_cast<std::size_t>(bytes)); });
  }

  HostWaits waits() const override { return {shared_.copies, shared_.synchronizations}; }
  std::int64_t captures() const override { return shared_.captures; }
  std::int64_t replays() const override { return shared_.replays; }
  std::map<std::string, std::int64_t> ranges() const override { return shared_.ranges.begun(); }

 private:
  template <class Work>
  void at_once(const Work& work) {
    ++shared_.copies;
    shared_.gate.task_begins(false);
    work();
    shared_.gate.task_ends(false);
  }

  bool records_;
  OutsideBytes outside_;
  std::unique_ptr<Device> cpu_ = make_cpu_device(1);
  Shared shared_;
};

}  // namespace

std::unique_ptr<SeparateDevice> make_separate_device(bool records, OutsideBytes outside) {
  return std::make_unique<Separate>(records, std::move(outside));
}

Backend make_separate_backend(bool records, OutsideBytes outside) {
  Backend backend;
  backend.name = "separate";
  backend.kernels_name = "separate, of the CPU";
  backend.device = make_separate_device(records, std::move(outside));
  backend.kernels = cpu_kernels();
  backend.records = records;
  return backend;
}

Backend make_separate_backend_over(DeviceTransportChoice choice, const std::string& address, OutsideBytes outside) {
  Backend backend = make_separate_backend(true, std::move(outside));
  backend.transports = std::make_unique<DeviceTransports>(std::move(choice), *backend.device, address, false);
  return backend;
}

bool host_can_read(const void* memory) {
  std::array<int, 2> ends{};
  require(pipe(ends.data()) == 0, ErrorKind::Internal, "no pipe");
  const bool readable = write(ends[1], memory, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return readable;
}

}  // namespace plimsoll::test
