#pragma once
// What is sent together, so that it hides behind compute (planner.md, section 3): gradients that are summed as one, and
// parameters that are gathered before they are used. Pure functions of times, so that all ranks decide alike; each
// answer says what it takes and what the usual ways take beside it.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace plimsoll {

// Seconds of one message or collective, by its bytes (runtime/plan/link_table.hpp). Rises with the bytes.
using MessageSeconds = std::function<double(std::int64_t bytes)>;

// The usual bucket of gradients: where nobody knows the links, and for comparison.
inline constexpr std::int64_t kFixedBucketBytes = std::int64_t{25} << 20;

// What can be sent from a time on. Items are in the order in which they lie in memory: about that in which they are
// made.
struct ReadyItem {
  double ready_s = 0;
  std::int64_t bytes = 0;
  bool joins = true;  // may be sent with the item before it
};

struct BucketProblem {
  std::vector<ReadyItem> items;  // at least one
  double compute_end_s = 0;      // of the work that messages hide behind; no item is ready later
  std::int64_t most_bytes = 0;   // of a bucket, unless it is one item that is larger; 0: no limit
  MessageSeconds seconds;
  double slows = 0;  // of the work beside them, messages take this share (CostModel::collective_slows)
};

// Neighbouring items that are sent as one, one bucket after the other.
struct Buckets {
  std::vector<std::size_t> ends;  // bucket k is of items [ends[k-1], ends[k]); the last is the number of items
  double end_s = 0;               // when the last has arrived
  double exposed_s = 0;           // of that, after the work has ended
};

// What these buckets take: F[j] = max(F[i], max r over items i+1..j + s·T(bytes of 1..i)) + T(bytes of i+1..j). That is
// the recurrence of planner.md with a table for α + b·m, with the latest of the ready times for the last, as items need
// not be ready in their order, and with the work that messages before have delayed by the share s of their time (as if
// they had been one: how they were cut counts for little, and so the answer stays exact).
Buckets time_buckets(const BucketProblem& problem, std::vector<std::size_t> ends);

// Buckets of as many items as `bytes` and ReadyItem::joins allow, at least one each.
std::vector<std::size_t> fixed_buckets(std::span<const ReadyItem> items, std::int64_t bytes);

struct BucketChoice {
  Buckets best, fixed, one;  // fixed: of kFixedBucketBytes, or most_bytes if that is less; one: all items at once
  double gain_over_fixed_s() const { return fixed.end_s - best.end_s; }
  double gain_over_one_s() const { return one.end_s - best.end_s; }
};

// The buckets that have arrived first: the least F[n] of all 2^(n-1) cuts (of those that join what may be joined),
// exactly, in O(n²). Of the cuts that are done
// by then (to a billionth), each bucket from the first on takes as many items as it can: large ones as long as compute
// hides them, small ones at the end.
BucketChoice choose_buckets(const BucketProblem& problem);

// What is gathered before it is used.
struct NeededItem {
  double need_s = 0;  // when compute would begin to use it if it never waited; rising
  std::int64_t bytes = 0;
  bool joins = true;  // may be gathered with the item before it
};

// Which items to gather together where a gather may begin as early as it must: choose_buckets() with time reversed, for
// a bucket has to be there when the first of it is needed. end_s: from the beginning of the first gather to the last
// need; exposed_s: what compute waits for before it begins.
BucketChoice choose_gathers(std::span<const NeededItem> items, std::int64_t most_bytes, const MessageSeconds& seconds);

// One use of parameters that are gathered for it and freed behind it.
struct GatherUse {
  double compute_s = 0;
  std::int64_t bytes = 0;
  double after_s = 0;   // of the link, behind the use: what it made is sent before any gather that begins later
  bool joins = false;   // may be gathered with the use before it: what they use lies side by side
  bool joined = false;  // is; then the buffer of both lives from the gather to the end of the last use
};
// Uses of which each section begins when all of the one before has ended.
using GatherSections = std::vector<std::vector<GatherUse>>;

// Joins uses into gathers of at most `most_bytes` (one use may be larger): with `seconds`, in each section as
// choose_gathers() says, by when compute comes to them if it never waits; else (null) as many as fit.
void join_gathers(GatherSections& sections, std::int64_t most_bytes, const MessageSeconds& seconds);
// The ends of the gathers among all uses, one section after the other.
std::vector<std::size_t> gather_ends(const GatherSections& sections);

struct Prefetch {
  int distance = 0;      // gathers ahead: one may begin with the first use of the one so many before; 0: with its own
  double end_s = 0;      // of all uses, and of what is sent behind them
  double exposed_s = 0;  // of that, compute waits
  std::int64_t buffer_bytes = 0;  // the most that is gathered at once
};

// Messages go one after the other, uses too; a use begins when its gather has ended. Joined ones are one message.
Prefetch time_prefetch(const GatherSections& sections, const MessageSeconds& seconds, int distance);

struct PrefetchChoice {
  Prefetch best, none;  // none: distance 0
  double gain_s() const { return none.end_s - best.end_s; }
};

// The fastest distance of at most `most` whose buffers take at most `budget_bytes` (0: no limit), of several the
// smallest. Distance 0, the least that the uses can do with, where the others do not fit.
PrefetchChoice choose_prefetch(const GatherSections& sections, const MessageSeconds& seconds, std::int64_t budget_bytes,
                               int most);

}  // namespace plimsoll
