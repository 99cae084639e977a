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
#include <vector>

namespace plimsoll {

class Watchdog;

// A group of ranks as its watchdog sees it.
struct WatchedGroup {
  Watchdog* watchdog = nullptr;
  std::string axis;
  std::vector<int> ranks;               // of the run, in the order of the axis
  std::int64_t calls = 0;               // collectives begun by this rank; under the watchdog's mutex
  std::int64_t sent = 0, received = 0;  // messages begun by this rank, likewise
};

// What a rank tells the others when a call of any rank is late. Of fixed size: it travels as bytes.
struct RankState {
  static constexpr std::size_t kGroups = 12;
  struct Calls {
    std::array<char, 16> axis{};
    std::int64_t count = 0;
  };
  std::int32_t rank = 0, waits = 0;  // waits: in the call below
  std::int64_t sequence = 0, bytes = 0, peer = -1;
  double seconds = 0;
  std::array<char, 16> axis{}, op{};
  std::array<char, 80> label{};
  std::array<Calls, kGroups> begun{};
};

// Between the watchdogs of all ranks; neither call waits for anybody.
class StallChannel {
 public:
  virtual ~StallChannel() = default;
  virtual void tell(const RankState& mine) = 0;  // to all others; at most once
  virtual bool poll(RankState& theirs) = 0;      // false: nothing has come
};

// What is reported: op, label, axis, number, bytes and the ranks that have not arrived.
struct Stall {
  std::string text;
  bool told_by_another = false;  // a lower rank that is alive reports as well
};

class Watchdog {
 public:
  static constexpr double kLeastSeconds = 30, kSteps = 5;  // the default deadline: kSteps median steps, at least …
  static constexpr double kOutsideSteps = 10;  // times the deadline, where ranks load, save and evaluate at their pace
  static constexpr std::size_t kSlots = 32;    // calls in flight; more are not watched

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
  // nullopt: from the steps' times.
  void set_deadline(std::optional<double> seconds);
  double deadline() const;  // of a call that begins now

  // A step of training: its deadline holds until the end of the scope, and its time is remembered.
  class InStep {
   public:
    explicit InStep(Watchdog& watchdog);
    ~InStep();
    InStep(const InStep&) = delete;
    InStep& operator=(const InStep&) = delete;

   private:
    Watchdog& watchdog_;
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
    std::size_t slot_ = kSlots;
  };

 private:
  struct Slot {
    const WatchedGroup* group = nullptr;  // null: free
    std::string_view op;
    const char* label = "";
    std::int64_t sequence = 0, bytes = 0;
    int peer = -1;
    double begin = 0, deadline = 0;
    const std::atomic<bool>* awaited = nullptr;
    bool waits() const { return group != nullptr && (awaited == nullptr || *awaited); }
  };
  void remember_step(double seconds);
  void run();
  const Slot* oldest() const;
  bool late() const;
  RankState state() const;
  void collect(std::vector<std::optional<RankState>>& states) const;
  Stall describe(const std::vector<std::optional<RankState>>& states) const;

  int rank_, ranks_;
  std::unique_ptr<StallChannel> channel_;
  std::function<void(const Stall&)> on_stall_;
  mutable std::mutex mutex_;  // of what follows
  std::condition_variable stopping_;
  bool stop_ = false, in_step_ = false;
  double now_ = 0;  // seconds that the watchdog saw pass
  std::optional<double> given_;
  std::array<double, 32> steps_{};
  std::size_t step_count_ = 0;
  double median_ = 0;
  std::array<Slot, kSlots> slots_;
  std::vector<std::shared_ptr<WatchedGroup>> groups_;
  std::thread thread_;
};

}  // namespace plimsoll
