#include "runtime/device/cpu_stream.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

thread_local const std::atomic<bool>* current_stop = nullptr;

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Tasks come in bursts, so a wait of some microseconds on the core is cheaper than a sleep. It does not yield: that
// would give a slice away, and where computing threads want the core, the thread comes back milliseconds later.
template <class Condition>
bool spin_until(Condition condition) {
  constexpr int kSpins = 100;
  for (int i = 0; i < kSpins; ++i) {
    if (condition()) return true;
    pause_core();
  }
  return false;
}

// This thread computes little and often waits. With a short slice it is on a core soon after it wakes, and a yield
// inside MPI costs it little. Linux 6.12 on; sched_setattr(2), for which libraries have no call. Earlier ones ignore
// it.
void ask_for_short_slices() {
  struct {
    std::uint32_t size = 48, policy = SCHED_OTHER;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t slice_ns = 100'000, deadline_ns = 0, period_ns = 0;
  } attributes;
  if (sched_getscheduler(0) != SCHED_OTHER) return;
  errno = 0;
  attributes.nice = getpriority(PRIO_PROCESS, 0);  // kept
  if (errno == 0) syscall(SYS_sched_setattr, 0, &attributes, 0U);
}

// How far a worker stream has come. Events share it, so that they may outlive the stream.
class Progress {
 public:
  std::uint64_t completed() const { return completed_.load(std::memory_order_acquire); }
  bool failed() const { return failed_.load(std::memory_order_acquire); }

  void complete_one(std::exception_ptr error) {
    {
      const std::lock_guard lock(mutex_);
      if (error && !error_) {
        error_ = std::move(error);
        failed_at_ = completed() + 1;
        failed_.store(true, std::memory_order_release);
      }
      completed_.fetch_add(1, std::memory_order_release);
    }
    changed_.notify_all();
  }

  // Blocks until `ticket` tasks are done; throws the stream's error if one of them failed or was dropped.
  void wait_for(std::uint64_t ticket) {
    using namespace std::chrono_literals;
    const auto done = [&] { return completed() >= ticket; };
    if (!spin_until(done)) {
      std::unique_lock lock(mutex_);
      while (!changed_.wait_for(lock, 50ms, done)) {
        require(!stop_requested(), ErrorKind::Internal, "a stream was destroyed while it waited for an event");
      }
    }
    if (!failed()) return;
    const std::lock_guard lock(mutex_);
    if (failed_at_ <= ticket) std::rethrow_exception(error_);
  }

 private:
  std::atomic<std::uint64_t> completed_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::exception_ptr error_;     // guarded by mutex_
  std::uint64_t failed_at_ = 0;  // guarded by mutex_: the ticket of the task that failed
};

class CpuEvent final : public Event {
 public:
  bool ready() const override { return !progress || progress->completed() >= ticket; }
  void synchronize() const override {
    if (progress) progress->wait_for(ticket);
  }

  std::shared_ptr<Progress> progress;  // null: recorded on an inline stream, or never
  std::uint64_t ticket = 0;
};

const CpuEvent& cpu_event(const Event& event) {
  const auto* cpu = dynamic_cast<const CpuEvent*>(&event);
  require(cpu != nullptr, ErrorKind::Internal, "a CPU stream was given the event of another device");
  return *cpu;
}

class InlineStream final : public Stream {
 public:
  void launch(Task task) override { task.run(task.argument); }
  void record(Event& event) override {
    auto& cpu = const_cast<CpuEvent&>(cpu_event(event));
    cpu.progress.reset();
    cpu.ticket = 0;
  }
  void wait(const Event& event) override { event.synchronize(); }
  void synchronize() override {}
};

class WorkerStream final : public Stream {
 public:
  WorkerStream() : progress_(std::make_shared<Progress>()), ring_(kStreamCapacity), thread_([this] { work(); }) {}

  ~WorkerStream() override {
    {
      const std::lock_guard lock(mutex_);
      stop_.store(true, std::memory_order_release);
    }
    submitted_changed_.notify_one();
    thread_.join();
  }

  void launch(Task task) override { submit(task, nullptr, 0); }

  void record(Event& event) override {
    auto& cpu = const_cast<CpuEvent&>(cpu_event(event));
    cpu.progress = progress_;
    cpu.ticket = submitted_.load(std::memory_order_acquire);
  }

  void wait(const Event& event) override {
    const CpuEvent& cpu = cpu_event(event);
    if (!cpu.progress || cpu.progress == progress_) return;
    submit({}, cpu.progress, cpu.ticket);
  }

  void synchronize() override { progress_->wait_for(submitted_.load(std::memory_order_acquire)); }

 private:
  struct Entry {
    Task task;
    std::shared_ptr<Progress> awaited;  // set: wait for `ticket` there instead of running `task`
    std::uint64_t ticket = 0;
  };

  void submit(Task task, std::shared_ptr<Progress> awaited, std::uint64_t ticket) {
    const std::uint64_t index = submitted_.load(std::memory_order_relaxed);
    if (index - progress_->completed() >= kStreamCapacity) wait_for_room(index);
    ring_[index % kStreamCapacity] = {task, std::move(awaited), ticket};
    {
      const std::lock_guard lock(mutex_);
      submitted_.store(index + 1, std::memory_order_release);
    }
    submitted_changed_.notify_one();
  }

  void wait_for_room(std::uint64_t index) { progress_->wait_for(index - kStreamCapacity + 1); }

  void work() {
    current_stop = &stop_;
    ask_for_short_slices();
    for (std::uint64_t next = 0;; ++next) {
      const auto due = [&] { return submitted_.load(std::memory_order_acquire) > next || stop_.load(); };
      if (!spin_until(due)) {
        std::unique_lock lock(mutex_);
        submitted_changed_.wait(lock, due);
      }
      if (submitted_.load(std::memory_order_acquire) == next) return;  // stopped, and nothing is left to drop
      progress_->complete_one(execute(ring_[next % kStreamCapacity]));
    }
  }

  std::exception_ptr execute(Entry& entry) {
    const std::shared_ptr<Progress> awaited = std::move(entry.awaited);
    try {  // the root of this thread: what is caught here is rethrown in synchronize()
      require(!stop_.load(), ErrorKind::Internal, "a stream was destroyed before its tasks had run");
      if (progress_->failed()) return nullptr;
      if (awaited)
        awaited->wait_for(entry.ticket);
      else
        entry.task.run(entry.task.argument);
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

  std::shared_ptr<Progress> progress_;
  std::vector<Entry> ring_;
  std::atomic<std::uint64_t> submitted_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable submitted_changed_;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace

const std::atomic<bool>* stop_flag() noexcept { return current_stop; }
void follow_stop_flag(const std::atomic<bool>* flag) noexcept { current_stop = flag; }
bool stop_requested() noexcept { return current_stop != nullptr && current_stop->load(std::memory_order_acquire); }

std::unique_ptr<Stream> make_inline_stream() { return std::make_unique<InlineStream>(); }
std::unique_ptr<Stream> make_worker_stream() { return std::make_unique<WorkerStream>(); }
std::unique_ptr<Event> make_cpu_event() { return std::make_unique<CpuEvent>(); }

}  // namespace plimsoll
