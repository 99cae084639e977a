#pragma once
// Byte plans that searches ask for again and again: a layout is planned as it is, for what one of its stages
// recomputes, then for all of them, and at last as the one that was chosen. The ranks that were asked about last are
// remembered for all searches of the process, with the bytes of their plans.

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>

#include "launch/programs.hpp"

namespace plimsoll {

// The bytes of a rank's plan, what no placement can do without, and of what it offloads.
struct PlannedBytes {
  std::int64_t arena = 0, least = 0, host = 0;
};

// Those of plan_of(options, enough_bytes, keeping): of options that differ in nothing that the plan follows from, it is
// made once.
PlannedBytes known_bytes(const ProgramOptions& options, std::int64_t enough_bytes, const Graph* keeping = nullptr);

// What no placement of such a plan can do without, rounded up to kArenaAlignment; few need more.
std::int64_t least_bytes(const MemoryPlan& plan);

// What a rank of `options` needs when it recomputes what they say.
std::int64_t planned_bytes(const ProgramOptions& options);

// The layers of a stage, in the order in which they run. `cuts`: program_cuts().
std::vector<int> layers_at(const ProgramOptions& options, int stage, const std::vector<int>& cuts);

// The last `most` of those that searches of the process asked for, by what they are about: a Kept is made of a Key, and
// is_of() it.
template <class Kept, class Key>
class Remembered {
 public:
  explicit Remembered(std::size_t most) : most_(most) {}

  std::shared_ptr<Kept> of(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto same = std::find_if(known_.rbegin(), known_.rend(), [&](const auto& k) { return k->is_of(key); });
    if (same != known_.rend()) return *same;
    if (known_.size() == most_) known_.pop_front();
    return known_.emplace_back(std::make_shared<Kept>(key));
  }

 private:
  std::size_t most_;
  std::mutex mutex_;
  std::deque<std::shared_ptr<Kept>> known_;
};

}  // namespace plimsoll
