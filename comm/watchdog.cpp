#include "comm/watchdog.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTick = std::chrono::milliseconds(50);
// No more than this passes between two looks, however long this process was kept from running.
constexpr double kMostPerTick = 1;
// Within which ranks that are alive answer.
constexpr double kAnswerSeconds = 0.4;

double seconds_between(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

template <std::size_t n>
void put(std::array<char, n>& to, std::string_view text) {
  std::copy_n(text.begin(), std::min(text.size(), n - 1), to.begin());
}

std::string list_of(const std::vector<int>& ranks) {
  constexpr std::size_t kMost = 16;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < std::min(kMost, ranks.size()); ++i) names.push_back(std::to_string(ranks[i]));
  return join(names, ", ") + (ranks.size() > kMost ? fmt::format(" and {} more", ranks.size() - kMost) : "");
}

}  // namespace

Watchdog::Watchdog(int rank, int ranks, std::unique_ptr<StallChannel> channel)
    : rank_(rank), ranks_(ranks), channel_(std::move(channel)) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopping_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<WatchedGroup> Watchdog::watch(std::string axis, std::vector<int> ranks) {
  auto group = std::make_shared<WatchedGroup>(WatchedGroup{this, std::move(axis), std::move(ranks), 0});
  const std::lock_guard lock(mutex_);
  return groups_.emplace_back(std::move(group));
}

void Watchdog::start(std::function<void(const Stall&)> on_stall) {
  on_stall_ = std::move(on_stall);
  thread_ = std::thread([this] { run(); });
}

void Watchdog::poll_with(WatchedGroup& group, std::function<std::optional<std::string>()> poll) {
  const std::lock_guard lock(poll_mutex_);
  group.poll = std::move(poll);
}

std::optional<Stall> Watchdog::poll_groups() {
  const std::lock_guard polling(poll_mutex_);
  for (std::size_t i = 0;; ++i) {
    WatchedGroup* group = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (i == groups_.size()) return std::nullopt;
      group = groups_[i].get();
    }
    if (!group->poll) continue;
    try {
      if (auto fault = group->poll()) return Stall{*std::move(fault)};
    } catch (const Error& error) {  // of the device, say: on this thread nobody else would catch it
      return Stall{error.what(), false, error.kind()};
    }
  }
}

void Watchdog::set_deadline(std::optional<double> seconds) {
  const std::lock_guard lock(mutex_);
  given_ = seconds;
}

double Watchdog::deadline() const {
  const std::lock_guard lock(mutex_);
  return deadlines().first;
}

// Of a call that begins now; and of a rank that does not answer, where that is shorter.
std::pair<double, double> Watchdog::deadlines() const {
  const double in_steps = given_.value_or(std::max(kLeastSeconds, kSteps * median_));
  // The first step has no measure yet.
  if (in_step_ && (given_ || step_count_ > 0)) return {in_steps, 0};
  return {kOutsideSteps * in_steps, in_steps};
}

void Watchdog::remember_step(double seconds) {
  const std::lock_guard lock(mutex_);
  in_step_ = false;
  steps_[step_count_++ % steps_.size()] = seconds;
  std::array<double, 32> sorted = steps_;
  const auto count = static_cast<std::ptrdiff_t>(std::min(step_count_, steps_.size()));
  std::nth_element(sorted.begin(), sorted.begin() + count / 2, sorted.begin() + count);
  median_ = sorted[static_cast<std::size_t>(count / 2)];
}

Watchdog::InStep::InStep(Watchdog& watchdog, StepKind kind)
    : watchdog_(watchdog), kind_(kind), begin_ns_(Clock::now().time_since_epoch() / std::chrono::nanoseconds(1)) {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.in_step_ = true;
}

Watchdog::InStep::~InStep() {
  if (kind_ == StepKind::Evaluation) {
    const std::lock_guard lock(watchdog_.mutex_);
    watchdog_.in_step_ = false;
    return;
  }
  watchdog_.remember_step(
      static_cast<double>(Clock::now().time_since_epoch() / std::chrono::nanoseconds(1) - begin_ns_) * 1e-9);
}

Watchdog::Call::Call(WatchedGroup* group, std::string_view op, const char* label, std::int64_t bytes, int peer,
                     const std::atomic<bool>* awaited)
    : group_(group) {
  if (group == nullptr) return;
  Watchdog& w = *group->watchdog;
  const std::lock_guard lock(w.mutex_);
  const auto [deadline, patience] = w.deadlines();
  const std::int64_t sequence = peer < 0 ? ++group->calls : op == "send" ? ++group->sent : ++group->received;
  while (slot_ < w.slots_.size() && w.slots_[slot_].group != nullptr) ++slot_;
  if (slot_ == w.slots_.size()) w.slots_.emplace_back();
  w.slots_[slot_] = {group, op, label, sequence, bytes, peer, w.now_, deadline, patience, awaited};
}

Watchdog::Call::~Call() {
  if (group_ == nullptr) return;
  const std::lock_guard lock(group_->watchdog->mutex_);
  group_->watchdog->slots_[slot_].group = nullptr;
}

const Watchdog::Slot* Watchdog::oldest() const {
  const Slot* first = nullptr;
  for (const Slot& s : slots_) {
    if (!s.waits()) continue;
    // Of several that wait, the one that is closest to its end, or furthest beyond.
    if (first == nullptr || s.begin + s.deadline < first->begin + first->deadline) first = &s;
  }
  return first;
}

bool Watchdog::late() const {
  const Slot* s = oldest();
  return s != nullptr && now_ - s->begin > s->deadline;
}

RankState Watchdog::state() const {
  const std::lock_guard lock(mutex_);
  RankState state;
  state.rank = rank_;
  // Of groups of one name the last: those before it were of a mesh that is gone.
  std::size_t told = 0;
  for (auto group = groups_.rbegin(); group != groups_.rend() && told < RankState::kGroups; ++group) {
    const auto end = state.begun.begin() + static_cast<std::ptrdiff_t>(told);
    const auto is_same = [&](const RankState::Calls& c) { return text_of(c.axis) == (*group)->axis; };
    if (std::any_of(state.begun.begin(), end, is_same)) continue;
    put(state.begun[told].axis, (*group)->axis);
    state.begun[told++].count = (*group)->calls;
  }
  const Slot* s = oldest();
  if (s == nullptr) return state;
  state.waits = 1;
  state.sequence = s->sequence;
  state.bytes = s->bytes;
  state.peer = s->peer < 0 ? -1 : s->group->ranks[static_cast<std::size_t>(s->peer)];
  state.seconds = now_ - s->begin;
  put(state.axis, s->group->axis);
  put(state.op, s->op);
  put(state.label, s->label);
  return state;
}

void Watchdog::collect(States& states) const {
  const auto begin = Clock::now();
  const auto all = [&] {
    return std::all_of(states.begin(), states.end(), [](const auto& s) { return s.has_value(); });
  };
  while (channel_ && !all() && seconds_between(begin, Clock::now()) < kAnswerSeconds) {
    RankState theirs;
    while (channel_->poll(theirs)) {
      if (theirs.kind == TellKind::Report) states[static_cast<std::size_t>(theirs.rank)] = theirs;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// The ranks that have not come to the call `mine`, by what is known of them.
std::vector<int> Watchdog::missing_for(const RankState& mine, const States& states) const {
  std::vector<int> members, missing;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& g : groups_) {
      if (g->axis == text_of(mine.axis)) members = g->ranks;
    }
  }
  for (const int r : members) {
    const auto& s = states[static_cast<std::size_t>(r)];
    const bool arrived = mine.peer >= 0 ? r != mine.peer : s && calls_of(*s, text_of(mine.axis)) >= mine.sequence;
    if (!arrived && r != rank_) missing.push_back(r);
  }
  return missing;
}

Stall Watchdog::describe(const States& states) const {
  const RankState& mine = *states[static_cast<std::size_t>(rank_)];
  Stall stall;
  stall.told_by_another =
      std::any_of(states.begin(), states.begin() + rank_, [](const auto& s) { return s.has_value(); });
  std::vector<int> missing, silent, idle;
  for (int r = 0; r < ranks_; ++r) {
    const auto& s = states[static_cast<std::size_t>(r)];
    if (!s) silent.push_back(r);
    if (s && s->waits == 0) idle.push_back(r);
  }
  if (mine.waits == 0) {
    stall.text = "another rank waits, and this rank is in no collective";
    const auto waiting = std::find_if(states.begin(), states.end(), [](const auto& s) { return s && s->waits != 0; });
    if (waiting != states.end()) {
      stall.text = fmt::format("rank {} waits since {:.1f} s in {}; this rank is in no collective", (*waiting)->rank,
                               (*waiting)->seconds, name_of_call(**waiting));
    }
  } else {
    missing = missing_for(mine, states);
    stall.text = fmt::format("{}: not complete after {:.1f} s: ", name_of_call(mine), mine.seconds);
    if (missing.empty()) {
      stall.text += "all its ranks have arrived";
    } else {
      stall.text +=
          fmt::format("rank{} {} {} not arrived, rank {} {}", missing.size() > 1 ? "s" : "", list_of(missing),
                      missing.size() > 1 ? "have" : "has", missing.front(),
                      channel_ ? what_it_does(states[static_cast<std::size_t>(missing.front())]) : "is unknown");
    }
  }
  if (!channel_) return stall;
  if (!silent.empty() && silent != missing) stall.text += fmt::format("; no answer from rank(s) {}", list_of(silent));
  if (!idle.empty() && idle != missing) stall.text += fmt::format("; in no collective: rank(s) {}", list_of(idle));
  return stall;
}

// Asks the ranks that a call waits for outside of steps, when half of their patience is over, whether they are alive;
// again and again. True when one of them has not answered by its end.
bool Watchdog::hears_nothing() {
  double begin = 0, patience = 0, now = 0;
  {
    const std::lock_guard lock(mutex_);
    const Slot* s = oldest();
    now = now_;
    if (s != nullptr) begin = s->begin, patience = s->patience;
  }
  if (patience == 0 || now - begin < patience / 2) {
    inquiry_ = {};
    return false;
  }
  RankState mine = state();
  if (mine.waits == 0) return false;
  if (inquiry_.call_begin != begin) {
    inquiry_ = {begin, now, States(static_cast<std::size_t>(ranks_))};
    mine.kind = TellKind::Question;
    for (const int r : missing_for(mine, inquiry_.answers)) channel_->tell(mine, r);
    return false;
  }
  if (now - inquiry_.asked < std::max(patience / 2, kLeastAnswerSeconds)) return false;
  const std::vector<int> missing = missing_for(mine, inquiry_.answers);
  const bool silent = std::any_of(missing.begin(), missing.end(),
                                  [&](int r) { return !inquiry_.answers[static_cast<std::size_t>(r)]; });
  if (!silent) inquiry_.call_begin = -1;
  return silent;
}

void Watchdog::tell_all(const RankState& mine) const {
  for (int r = 0; r < ranks_; ++r) {
    if (r != rank_) channel_->tell(mine, r);
  }
}

void Watchdog::run() {
  auto last = Clock::now();
  States states(static_cast<std::size_t>(ranks_));
  for (;;) {
    bool report = false;
    if (const auto fault = poll_groups()) return on_stall_(*fault);
    {
      std::unique_lock lock(mutex_);
      if (stopping_.wait_for(lock, kTick, [&] { return stop_; })) return;
      const auto now = Clock::now();
      now_ += std::min(kMostPerTick, seconds_between(last, now));
      last = now;
      for (Slot& s : slots_) {
        if (!s.waits()) s.begin = now_;
      }
      report = late();
    }
    RankState theirs;
    while (channel_ && channel_->poll(theirs)) {
      const auto from = static_cast<std::size_t>(theirs.rank);
      if (theirs.kind == TellKind::Question) {
        RankState answer = state();
        answer.kind = TellKind::Answer;
        channel_->tell(answer, theirs.rank);
      } else if (theirs.kind == TellKind::Answer) {
        if (!inquiry_.answers.empty()) inquiry_.answers[from] = theirs;
      } else {
        states[from] = theirs;
        report = true;
      }
    }
    report = report || (channel_ && hears_nothing());
    if (!report) continue;
    states[static_cast<std::size_t>(rank_)] = state();
    if (channel_) tell_all(*states[static_cast<std::size_t>(rank_)]);
    collect(states);
    return on_stall_(describe(states));
  }
}

}  // namespace plimsoll
