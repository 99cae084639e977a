#include "runtime/plan/bucket_sizes.hpp"

#include <algorithm>
#include <limits>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kSameEnd = 1e-9;  // of the end: cuts that differ by less are as good as each other

// How much later work is done behind so many bytes of messages.
double delay_of(const BucketProblem& problem, std::int64_t bytes) {
  return problem.slows > 0 && bytes > 0 ? problem.slows * problem.seconds(bytes) : 0;
}

// Every bucket of neighbouring items: when it can begin and what it takes.
class Cuts {
 public:
  explicit Cuts(const BucketProblem& problem) : n_(problem.items.size()), cells_(n_ * (n_ + 1)) {
    std::int64_t before = 0;
    for (std::size_t i = 0; i < n_; before += problem.items[i++].bytes) {
      Cell bucket{0, 0};
      const double delayed_s = delay_of(problem, before);
      std::int64_t bytes = 0;
      for (std::size_t j = i + 1; j <= n_; ++j) {
        const ReadyItem& item = problem.items[j - 1];
        if (j > i + 1 && !item.joins) break;
        bytes += item.bytes;
        bucket.ready_s = std::max(bucket.ready_s, item.ready_s + delayed_s);
        const bool fits = problem.most_bytes == 0 || bytes <= problem.most_bytes || j == i + 1;
        bucket.takes_s = fits ? problem.seconds(bytes) : kNever;
        cells_[i * (n_ + 1) + j] = bucket;
        if (!fits) break;
      }
    }
  }
  std::size_t items() const { return n_; }
  // Of items [i, j); j is at most end(i).
  double ready_s(std::size_t i, std::size_t j) const { return cells_[i * (n_ + 1) + j].ready_s; }
  double takes_s(std::size_t i, std::size_t j) const { return cells_[i * (n_ + 1) + j].takes_s; }

 private:
  struct Cell {
    double ready_s = 0, takes_s = kNever;
  };
  std::size_t n_;
  std::vector<Cell> cells_;
};

// F[n].
double earliest_end(const Cuts& cuts) {
  std::vector<double> end(cuts.items() + 1, kNever);
  end[0] = 0;
  for (std::size_t j = 1; j <= cuts.items(); ++j) {
    for (std::size_t i = 0; i < j; ++i)
      end[j] = std::min(end[j], std::max(end[i], cuts.ready_s(i, j)) + cuts.takes_s(i, j));
  }
  return end.back();
}

// By item: when those before it must have arrived at the latest, so that the rest arrives by `end_s`.
std::vector<double> latest_ends(const Cuts& cuts, double end_s) {
  const std::size_t n = cuts.items();
  std::vector<double> latest(n + 1, -kNever);
  latest[n] = end_s;
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t j = i + 1; j <= n; ++j) {
      const double begin = latest[j] - cuts.takes_s(i, j);
      if (begin >= cuts.ready_s(i, j)) latest[i] = std::max(latest[i], begin);
    }
  }
  return latest;
}

std::vector<std::size_t> largest_buckets(const Cuts& cuts, double end_s) {
  const std::size_t n = cuts.items();
  const std::vector<double> latest = latest_ends(cuts, end_s * (1 + kSameEnd));
  std::vector<std::size_t> ends;
  double now = 0;
  for (std::size_t i = 0; i < n; i = ends.back()) {
    std::size_t j = n;
    const auto end_at = [&] { return std::max(now, cuts.ready_s(i, j)) + cuts.takes_s(i, j); };
    while (j > i + 1 && !(end_at() <= latest[j])) --j;
    now = end_at();
    ends.push_back(j);
  }
  return ends;
}

// Uses [begin, end) that are gathered as one.
struct Gather {
  std::size_t begin, end;
  std::int64_t bytes;
};
std::vector<Gather> gathers_of(const std::vector<GatherUse>& uses) {
  std::vector<Gather> gathers;
  for (std::size_t u = 0; u < uses.size(); ++u) {
    if (u == 0 || !uses[u].joined) gathers.push_back({u, u, 0});
    gathers.back().end = u + 1;
    gathers.back().bytes += uses[u].bytes;
  }
  return gathers;
}

Prefetch time_section(const std::vector<GatherUse>& uses, const MessageSeconds& seconds, int distance) {
  const auto ahead = static_cast<std::size_t>(distance);
  const std::vector<Gather> gathers = gathers_of(uses);
  Prefetch prefetch;
  std::vector<double> arrived(gathers.size(), 0);
  std::size_t next = 0;
  double link = 0, compute = 0;
  // Makes the gathers before `end` that were not made yet, from `allowed` on.
  const auto gather = [&](std::size_t end, double allowed) {
    for (; next < std::min(end, gathers.size()); ++next)
      arrived[next] = link = std::max(link, allowed) + seconds(gathers[next].bytes);
  };
  gather(ahead, 0);
  for (std::size_t g = 0; g < gathers.size(); ++g) {
    if (ahead == 0) gather(g + 1, prefetch.end_s);
    prefetch.end_s = std::max(prefetch.end_s, arrived[g]);
    gather(g + 1 + ahead, prefetch.end_s);
    for (std::size_t u = gathers[g].begin; u < gathers[g].end; ++u) {
      prefetch.end_s += uses[u].compute_s;
      compute += uses[u].compute_s;
      if (uses[u].after_s > 0) link = std::max(link, prefetch.end_s) + uses[u].after_s;
    }
    std::int64_t live = 0;
    for (std::size_t v = g; v < gathers.size() && v <= g + ahead; ++v) live += gathers[v].bytes;
    prefetch.buffer_bytes = std::max(prefetch.buffer_bytes, live);
  }
  prefetch.end_s = std::max(prefetch.end_s, link);
  prefetch.exposed_s = prefetch.end_s - compute;
  return prefetch;
}

}  // namespace

Buckets time_buckets(const BucketProblem& problem, std::vector<std::size_t> ends) {
  require(!ends.empty() && ends.back() == problem.items.size(), ErrorKind::Internal, "buckets that leave out items");
  Buckets buckets;
  std::size_t item = 0;
  std::int64_t before = 0;
  for (const std::size_t end : ends) {
    require(item < end, ErrorKind::Internal, "an empty bucket before item {}", end);
    double ready = 0;
    std::int64_t bytes = 0;
    for (; item < end; ++item) {
      ready = std::max(ready, problem.items[item].ready_s);
      bytes += problem.items[item].bytes;
    }
    buckets.end_s = std::max(buckets.end_s, ready + delay_of(problem, before)) + problem.seconds(bytes);
    before += bytes;
  }
  buckets.ends = std::move(ends);
  buckets.exposed_s = std::max(0.0, buckets.end_s - problem.compute_end_s);
  return buckets;
}

std::vector<std::size_t> fixed_buckets(std::span<const ReadyItem> items, std::int64_t bytes) {
  std::vector<std::size_t> ends;
  std::int64_t filled = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0 && (!items[i].joins || filled + items[i].bytes > bytes)) {
      ends.push_back(i);
      filled = 0;
    }
    filled += items[i].bytes;
  }
  ends.push_back(items.size());
  return ends;
}

BucketChoice choose_buckets(const BucketProblem& problem) {
  require(!problem.items.empty(), ErrorKind::Internal, "buckets of no items");
  const Cuts cuts(problem);
  const std::int64_t fixed =
      problem.most_bytes > 0 ? std::min(problem.most_bytes, kFixedBucketBytes) : kFixedBucketBytes;
  return {time_buckets(problem, largest_buckets(cuts, earliest_end(cuts))),
          time_buckets(problem, fixed_buckets(problem.items, fixed)), time_buckets(problem, {problem.items.size()})};
}

BucketChoice choose_gathers(std::span<const NeededItem> items, std::int64_t most_bytes, const MessageSeconds& seconds) {
  require(!items.empty(), ErrorKind::Internal, "gathers of no items");
  const double last = items.back().need_s;
  BucketProblem reversed{{}, last, most_bytes, seconds};
  for (std::size_t i = items.size(); i-- > 0;)
    reversed.items.push_back({last - items[i].need_s, items[i].bytes, i + 1 == items.size() || items[i + 1].joins});
  BucketChoice choice = choose_buckets(reversed);
  for (Buckets* buckets : {&choice.best, &choice.fixed, &choice.one}) {
    std::vector<std::size_t> ends;
    for (std::size_t k = buckets->ends.size() - 1; k-- > 0;) ends.push_back(items.size() - buckets->ends[k]);
    ends.push_back(items.size());
    buckets->ends = std::move(ends);
  }
  return choice;
}

void join_gathers(GatherSections& sections, std::int64_t most_bytes, const MessageSeconds& seconds) {
  for (std::vector<GatherUse>& uses : sections) {
    std::vector<std::size_t> ends;
    if (seconds) {
      std::vector<NeededItem> items;
      double now = 0;
      for (const GatherUse& use : uses) {
        items.push_back({now, use.bytes, use.joins});
        now += use.compute_s;
      }
      ends = choose_gathers(items, most_bytes, seconds).best.ends;
    } else {
      std::vector<ReadyItem> items;
      for (const GatherUse& use : uses) items.push_back({0, use.bytes, use.joins});
      ends = fixed_buckets(items, most_bytes);
    }
    for (GatherUse& use : uses) use.joined = true;
    uses.front().joined = false;
    for (std::size_t k = 0; k + 1 < ends.size(); ++k) uses[ends[k]].joined = false;
  }
}

std::vector<std::size_t> gather_ends(const GatherSections& sections) {
  std::vector<std::size_t> ends;
  std::size_t before = 0;
  for (const std::vector<GatherUse>& uses : sections) {
    for (const Gather& gather : gathers_of(uses)) ends.push_back(before + gather.end);
    before += uses.size();
  }
  return ends;
}

Prefetch time_prefetch(const GatherSections& sections, const MessageSeconds& seconds, int distance) {
  Prefetch prefetch;
  prefetch.distance = distance;
  for (const std::vector<GatherUse>& uses : sections) {
    const Prefetch section = time_section(uses, seconds, distance);
    prefetch.end_s += section.end_s;
    prefetch.exposed_s += section.exposed_s;
    prefetch.buffer_bytes = std::max(prefetch.buffer_bytes, section.buffer_bytes);
  }
  return prefetch;
}

PrefetchChoice choose_prefetch(const GatherSections& sections, const MessageSeconds& seconds, std::int64_t budget_bytes,
                               int most) {
  PrefetchChoice choice;
  choice.best = choice.none = time_prefetch(sections, seconds, 0);
  for (int distance = 1; distance <= most; ++distance) {
    const Prefetch next = time_prefetch(sections, seconds, distance);
    if (budget_bytes > 0 && next.buffer_bytes > budget_bytes) break;
    if (next.end_s < choice.best.end_s * (1 - kSameEnd)) choice.best = next;
  }
  return choice;
}

}  // namespace plimsoll
