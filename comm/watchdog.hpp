#pragma once
// Knows every collective that this rank has begun and not finished, and notices the one that takes too long: because a
// rank is stopped, blocked, in an endless loop, or gone. Deadlines count the time in which this process runs, so that a
// suspended job is not taken for a hung one.

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "comm/stall.hpp"

namespace plimsoll {

class Watchdog;

// A group of ranks as its watchdog sees it.
struct WatchedGroup {
  Watchdog* watchdog = nullptr;
  std::string axis;
  std::vector<int> ranks;               // of the run, in the order of the axis
  std::int64_t calls = 0;               // collectives begun by this rank; under the watchdog's mutex
  std::int64_t sent = 0, received = 0;  // messages begun by this rank, likewise
  // What is wrong with calls that are under way by themselves, if anything; under the watchdog's poll mutex. May be
  // null.
  std::function<std::optional<std::string>()> poll = nullptr;
};

class Watchdog {
 public:
  static constexpr double kLeastSeconds = 30, kSteps = 5;  // the default deadline: kSteps median steps, at least …
  // Times the deadline, outside of steps, for ranks that are alive: they load and save at their pace. One that does not
  // answer by the deadline, and within kLeastAnswerSeconds, is not waited for any longer.
  static constexpr double kOutsideSteps = 10, kLeastAnswerSeconds = 2;

  // `channel` may be null: then nothing is known of the others.
  Watchdog(int rank, int ranks, std::unique_ptr<StallChannel> channel);
  ~Watchdog();  // stops watching; communicates with nobody
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // The group must not outlive the watchdog.
  std::shared_ptr<WatchedGroup> watch(std::string axis, std::vector<int> ranks);
  // From now on. `on_stall` is called once, on the watchdog's thread, within half a second after a call of any rank
  // became late.
  void start(std::function<void(const Stall&)> on_stall);
  // poll() is called again and again on the watchdog's thread; its text is reported as a stall is, and so is what it
  // throws, with its kind. Null: no more, and when this returns no call of the last one is running.
  void poll_with(WatchedGroup& group, std::function<std::optional<std::string>()> poll);
  // nullopt: from the steps' times.
  void set_deadline(std::optional<double> seconds);
  double deadline() const;  // of a call that begins now

  // A step of training, or of evaluation: its deadline holds until the end of the scope. The time of a step of training
  // is remembered.
  enum class StepKind : std::uint8_t { Training, Evaluation };
  class InStep {
   public:
    explicit InStep(Watchdog& watchdog, StepKind kind = StepKind::Training);
    ~InStep();
    InStep(const InStep&) = delete;
    InStep& operator=(const InStep&) = delete;

   private:
    Watchdog& watchdog_;
    StepKind kind_;
    std::int64_t begin_ns_;
  };

  // A call in flight, for the length of the scope; without a group, nothing. Strings outlive it. `peer`: rank in the
  // group, of a message between two ("send" or "receive"). While `awaited` is there and false, its time does not run,
  // and this rank does not count as waiting: the message is under way beside other work.
  class Call {
   public:
    Call(WatchedGroup* group, std::string_view op, const char* label, std::int64_t bytes, int peer = -1,
         const std::atomic<bool>* awaited = nullptr);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    WatchedGroup* group_;
    std::size_t slot_ = 0;
  };

 private:
  struct Slot {
    const WatchedGroup* group = nullptr;  // null: free
    std::string_view op;
    const char* label = "";
    std::int64_t sequence = 0, bytes = 0;
    int peer = -1;
    double begin = 0, deadline = 0;
    double patience = 0;  // 0: all until the deadline; else what a rank has that does not answer
    const std::atomic<bool>* awaited = nullptr;
    bool waits() const { return group != nullptr && (awaited == nullptr || *awaited); }
  };
  void remember_step(double seconds);
  std::pair<double, double> deadlines() const;
  void run();
  const Slot* oldest() const;
  bool late() const;
  RankState state() const;
  using States = std::vector<std::optional<RankState>>;
  void tell_all(const RankState& mine) const;
  void collect(States& states) const;
  std::vector<int> missing_for(const RankState& mine, const States& states) const;
  Stall describe(const States& states) const;
  bool hears_nothing();
  std::optional<Stall> poll_groups();

  int rank_, ranks_;
  std::unique_ptr<StallChannel> channel_;
  std::function<void(const Stall&)> on_stall_;
  std::mutex poll_mutex_;     // held while groups are polled, before mutex_
  mutable std::mutex mutex_;  // of what follows
  std::condition_variable stopping_;
  bool stop_ = false, in_step_ = false;
  double now_ = 0;  // seconds that the watchdog saw pass
  std::optional<double> given_;
  std::array<double, 32> steps_{};
  std::size_t step_count_ = 0;
  double median_ = 0;
  // Of calls in flight: so many cost no allocation, and more are made when they are needed.
  std::vector<Slot> slots_ = std::vector<Slot>(64);
  std::vector<std::shared_ptr<WatchedGroup>> groups_;
  // Of the watchdog's thread alone: the question that is open, and who has answered it.
  struct Inquiry {
    double call_begin = -1, asked = -1;
    States answers;
  };
  Inquiry inquiry_;
  std::thread thread_;
};

}  // namespace plimsoll
