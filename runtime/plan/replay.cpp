#include "runtime/plan/replay.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <vector>

namespace plimsoll {
namespace {

std::string place(const PlacedItem& item) {
  return fmt::format("'{}' (bytes {}..{}, positions {}..{})", item.name, item.offset, item.offset + item.bytes,
                     item.first, item.last);
}

std::optional<std::string> check_items(std::span<const PlacedItem> items, std::int64_t peak_bytes) {
  std::int64_t peak = 0;
  for (const PlacedItem& item : items) {
    if (item.bytes <= 0) return fmt::format("'{}' has {} bytes", item.name, item.bytes);
    if (item.offset < 0) return fmt::format("'{}' lies at the negative offset {}", item.name, item.offset);
    if (item.last < item.first) {
      return fmt::format("'{}' ends at position {} before it begins at {}", item.name, item.last, item.first);
    }
    peak = std::max(peak, item.offset + item.bytes);
  }
  if (peak != peak_bytes)
    return fmt::format("the plan claims a peak of {} bytes, its buffers reach {}", peak_bytes, peak);
  return std::nullopt;
}

// Sweeps time with the live buffers ordered by address: a new buffer can only collide with its two neighbours there,
// because those already in the map are pairwise disjoint.
std::optional<std::string> check_overlaps(std::span<const PlacedItem> items) {
  struct Event {
    int position;
    bool begins;  // an end at p frees after p: ends sort behind the beginnings of the same position
    int item;
  };
  std::vector<Event> events;
  events.reserve(2 * items.size());
  for (int i = 0; i < static_cast<int>(items.size()); ++i) {
    events.push_back({items[i].first, true, i});
    events.push_back({items[i].last, false, i});
  }
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.position != b.position ? a.position < b.position : a.begins && !b.begins;
  });
  std::map<std::int64_t, int> live;
  for (const Event& event : events) {
    const PlacedItem& item = items[event.item];
    if (!event.begins) {
      live.erase(item.offset);
      continue;
    }
    const auto above = live.lower_bound(item.offset);
    std::optional<int> other;
    if (above != live.end() && above->first < item.offset + item.bytes) other = above->second;
    if (above != live.begin()) {
      const PlacedItem& below = items[std::prev(above)->second];
      if (below.offset + below.bytes > item.offset) other = std::prev(above)->second;
    }
    if (other) {
      return fmt::format("{} and {} share bytes at position {}", place(items[*other]), place(item), event.position);
    }
    live.emplace(item.offset, event.item);
  }
  return std::nullopt;
}

// Who wrote each byte last, as disjoint ranges keyed by their begin.
class WriterMap {
 public:
  void write(std::int64_t begin, std::int64_t end, int item) {
    split(begin);
    split(end);
    ranges_.erase(ranges_.lower_bound(begin), ranges_.lower_bound(end));
    ranges_.emplace(begin, Range{end, item});
  }

  // The writer of the first byte of [begin, end) that `item` did not write: -1 for nobody; nullopt when there is none.
  std::optional<int> stranger(std::int64_t begin, std::int64_t end, int item) const {
    auto range = ranges_.upper_bound(begin);
    if (range != ranges_.begin()) --range;
    while (begin < end) {
      while (range != ranges_.end() && range->second.end <= begin) ++range;
      if (range == ranges_.end() || range->first > begin) return -1;
      if (range->second.item != item) return range->second.item;
      begin = range->second.end;
    }
    return std::nullopt;
  }

 private:
  struct Range {
    std::int64_t end;
    int item;
  };

  void split(std::int64_t at) {
    auto range = ranges_.lower_bound(at);
    if (range == ranges_.begin()) return;
    --range;
    if (range->second.end <= at) return;
    ranges_.emplace(at, range->second);
    range->second.end = at;
  }

  std::map<std::int64_t, Range> ranges_;
};

std::optional<std::string> check_accesses(std::span<const PlacedItem> items, std::span<const Access> accesses) {
  std::vector<int> order(accesses.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const Access& x = accesses[a];
    const Access& y = accesses[b];
    if (x.position != y.position) return x.position < y.position;
    return x.kind == AccessKind::Read && y.kind == AccessKind::Write;
  });
  WriterMap writers;
  for (const int index : order) {
    const Access& access = accesses[index];
    if (access.item < 0 || access.item >= static_cast<int>(items.size())) {
      return fmt::format("the access at position {} names item {} of {}", access.position, access.item, items.size());
    }
    const PlacedItem& item = items[access.item];
    const char* verb = access.kind == AccessKind::Read ? "read" : "written";
    if (access.position < item.first || access.position > item.last) {
      return fmt::format("{} is {} at position {}, outside its lifetime", place(item), verb, access.position);
    }
    if (access.kind == AccessKind::Write) {
      writers.write(item.offset, item.offset + item.bytes, access.item);
      continue;
    }
    const auto stranger = writers.stranger(item.offset, item.offset + item.bytes, access.item);
    if (!stranger) continue;
    if (*stranger < 0)
      return fmt::format("{} is read at position {} before it is written", place(item), access.position);
    return fmt::format("{} is read at position {}, but {} wrote there last", place(item), access.position,
                       place(items[*stranger]));
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> replay(std::span<const PlacedItem> items, std::int64_t peak_bytes) {
  if (auto violation = check_items(items, peak_bytes)) return violation;
  return check_overlaps(items);
}

std::optional<std::string> replay(std::span<const PlacedItem> items, std::span<const Access> accesses,
                                  std::int64_t peak_bytes) {
  if (auto violation = replay(items, peak_bytes)) return violation;
  return check_accesses(items, accesses);
}

}  // namespace plimsoll
