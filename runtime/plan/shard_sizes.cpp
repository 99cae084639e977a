#include "runtime/plan/shard_sizes.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// Of the rising numbers, those on both sides of `about`.
void add_neighbours(std::span<const std::int64_t> numbers, double about, std::vector<std::int64_t>& chosen) {
  const auto after = std::lower_bound(numbers.begin(), numbers.end(), about,
                                      [](std::int64_t n, double x) { return static_cast<double>(n) < x; });
  if (after != numbers.end()) chosen.push_back(*after);
  if (after != numbers.begin()) chosen.push_back(*(after - 1));
}

// The fastest of them and of 1; of several the smallest.
template <class Seconds>
PieceChoice fastest(std::vector<std::int64_t> pieces, const Seconds& seconds_of) {
  std::sort(pieces.begin(), pieces.end());
  PieceChoice choice;
  choice.seconds = choice.whole_s = seconds_of(std::int64_t{1});
  for (const std::int64_t k : pieces) {
    const double seconds = seconds_of(k);
    if (seconds < choice.seconds) {
      choice.pieces = k;
      choice.seconds = seconds;
    }
  }
  return choice;
}

std::int64_t part_of(std::int64_t bytes, std::int64_t pieces) { return (bytes + pieces - 1) / pieces; }

double slowest_rank(std::span<const RankSpeed> ranks, std::span<const std::int64_t> shares) {
  double seconds = 0;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    seconds = std::max(seconds, static_cast<double>(shares[r]) * ranks[r].micro_batch_s);
  return seconds;
}

// Rounds parts down to whole units and gives what is left to those that lost most, where they have room.
void round_shares(std::span<const double> exact, std::span<const std::int64_t> room, std::int64_t total,
                  std::vector<std::int64_t>& shares) {
  std::vector<std::size_t> order(exact.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return exact[a] - std::floor(exact[a]) > exact[b] - std::floor(exact[b]);
  });
  for (std::size_t i = 0; i < exact.size(); ++i)
    shares[i] = std::min(static_cast<std::int64_t>(std::floor(exact[i])), room[i]);
  std::int64_t left = total - std::accumulate(shares.begin(), shares.end(), std::int64_t{0});
  while (left > 0) {
    const std::int64_t before = left;
    for (const std::size_t i : order) {
      if (left == 0 || shares[i] >= room[i]) continue;
      ++shares[i];
      --left;
    }
    require(left < before, ErrorKind::Internal, "{} units have no room", left);
  }
}

}  // namespace

std::int64_t efficient_bytes(const LinkLine& line, double efficiency) {
  require(efficiency >= 0 && efficiency < 1, ErrorKind::Internal, "an efficiency of {}", efficiency);
  return std::llround(efficiency / (1 - efficiency) * line.latency_s * line.bytes_per_s);
}

ShardGroupChoice choose_shard_group(std::vector<ShardGroup> groups, std::int64_t unit_bytes,
                                    const std::function<bool(int ranks)>& fits) {
  require(!groups.empty(), ErrorKind::Internal, "no group of ranks");
  ShardGroupChoice choice{groups.back().ranks, groups.front().ranks, unit_bytes, std::move(groups)};
  for (const ShardGroup& group : choice.groups) {
    if (unit_bytes >= group.least_bytes) choice.by_links = group.ranks;
  }
  for (const ShardGroup& group : choice.groups) {
    if (group.ranks < choice.by_links || !fits(group.ranks)) continue;
    choice.ranks = group.ranks;
    break;
  }
  return choice;
}

PieceChoice choose_overlap_pieces(double compute_s, double overhead_s, std::int64_t bytes, const LinkLine& line,
                                  const MessageSeconds& seconds, std::span<const std::int64_t> allowed) {
  require(!allowed.empty() && allowed.front() == 1, ErrorKind::Internal, "numbers of pieces begin with 1");
  const double each = std::max(line.latency_s, overhead_s);
  const double most = static_cast<double>(allowed.back());
  const double hidden = std::min(compute_s, seconds(bytes));
  const double best = each > 0 ? std::min(most, std::sqrt(hidden / each)) : most;
  std::vector<std::int64_t> pieces;
  for (const double k : {best / 2, best, best * 2}) add_neighbours(allowed, k, pieces);
  return fastest(std::move(pieces), [&](std::int64_t k) {
    const double count = static_cast<double>(k);
    const double work = compute_s / count + (k > 1 ? overhead_s : 0), message = seconds(part_of(bytes, k));
    return work + (count - 1) * std::max(work, message) + message;
  });
}

std::optional<BatchShares> share_micro_batches(std::int64_t total, std::span<const RankSpeed> ranks,
                                               std::int64_t least) {
  const auto count = static_cast<std::int64_t>(ranks.size());
  std::int64_t room = 0;
  for (const RankSpeed& rank : ranks) {
    require(rank.micro_batch_s > 0, ErrorKind::Internal, "a micro-batch of {} s", rank.micro_batch_s);
    if (rank.most_batches < least) return std::nullopt;
    room += std::min(rank.most_batches, total);
  }
  if (count == 0 || total < least * count || total > room) return std::nullopt;
  BatchShares shares;
  shares.micro_batches.assign(ranks.size(), least);
  // Each next one goes where it is done first: no exchange could make the last rank earlier.
  for (std::int64_t given = least * count; given < total; ++given) {
    std::size_t best = ranks.size();
    double best_s = 0;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (shares.micro_batches[r] == ranks[r].most_batches) continue;
      const double done = static_cast<double>(shares.micro_batches[r] + 1) * ranks[r].micro_batch_s;
      if (best == ranks.size() || done < best_s) {
        best = r;
        best_s = done;
      }
    }
    ++shares.micro_batches[best];
  }
  std::vector<std::int64_t> even;
  for (std::int64_t r = 0; r < count; ++r) even.push_back(total * (r + 1) / count - total * r / count);
  shares.seconds = slowest_rank(ranks, shares.micro_batches);
  shares.even_s = slowest_rank(ranks, even);
  return shares;
}

std::optional<std::vector<std::int64_t>> share_state(std::int64_t elements, std::int64_t bytes_per_element,
                                                     std::span<const std::int64_t> free_bytes, std::int64_t unit) {
  require(elements >= 0 && bytes_per_element > 0 && unit > 0, ErrorKind::Internal,
          "{} elements of {} bytes in units of {}", elements, bytes_per_element, unit);
  const std::int64_t units = part_of(elements, unit);
  std::vector<std::int64_t> room;
  double free = 0;
  for (const std::int64_t bytes : free_bytes) {
    room.push_back(std::max<std::int64_t>(0, bytes) / (bytes_per_element * unit));
    free += static_cast<double>(std::max<std::int64_t>(0, bytes));
  }
  if (std::accumulate(room.begin(), room.end(), std::int64_t{0}) < units) return std::nullopt;
  std::vector<double> exact;
  for (const std::int64_t bytes : free_bytes)
    exact.push_back(free > 0 ? static_cast<double>(units) * static_cast<double>(std::max<std::int64_t>(0, bytes)) / free
                             : 0);
  std::vector<std::int64_t> shares(free_bytes.size(), 0);
  round_shares(exact, room, units, shares);
  std::int64_t left = elements;
  for (std::int64_t& share : shares) {
    share = std::min(share * unit, left);
    left -= share;
  }
  return shares;
}

}  // namespace plimsoll
