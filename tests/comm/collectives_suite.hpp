#pragma once
// What every transport must do: called by all ranks of a group, each with its own `Group`. A check returns its faults
// as text, empty when there are none, and never stops early: all ranks make the same calls whatever they find.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/comm/guarded_tensor.hpp"
#include "tests/comm/suite_group.hpp"

namespace plimsoll {

// The bytes that all ranks together sent since `before`; the call itself is not counted.
inline std::string compare_bytes(const SuiteGroup& g, const char* what, std::int64_t before, std::int64_t expected) {
  const double sent = g.sum(static_cast<double>(g.bytes_sent() - before));
  if (sent == static_cast<double>(expected)) return "";
  return fmt::format("{}: the ranks sent {} bytes, not {}\n", what, sent, expected);
}

template <class T>
std::string check_reductions(const SuiteGroup& g, std::int64_t n) {
  std::string faults;
  const int ranks = g.size();
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(ranks)));
  for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Max}) {
    const auto reduced = [&](std::int64_t i) { return suite_reduced<T>(ranks, i, op); };
    Guarded<T> x(n);
    x.fill(g.rank());
    std::int64_t before = g.bytes_sent();
    g.all_reduce(x.view(), op, scratch.data());
    // 2(n−1)/n of the message from each of n ranks.
    faults += compare_bytes(g, "all_reduce", before, 2 * (ranks - 1) * x.view().spec.bytes());
    faults += x.compare("all_reduce", reduced);

    Guarded<T> in(n * ranks), out(n);
    in.fill(g.rank());
    before = g.bytes_sent();
    g.reduce_scatter(in.view(), out.view(), op, scratch.data());
    faults += compare_bytes(g, "reduce_scatter", before, (ranks - 1) * in.view().spec.bytes());
    faults += out.compare("reduce_scatter", [&](std::int64_t i) { return reduced(n * g.rank() + i); });
  }
  return faults;
}

// Tensors of several sizes, more of them than fit one exchange, with equal parts and with others.
inline std::vector<JoinedPart> suite_parts(int ranks, std::int64_t n) {
  std::vector<JoinedPart> parts{{n * ranks}, {ranks}, {n}};
  parts[2].cuts.assign(static_cast<std::size_t>(ranks + 1), n);  // the first rank has all of it
  parts[2].cuts[0] = 0;
  parts.insert(parts.end(), 20, {3 * ranks, {}});
  return parts;
}

// In one sum, each as if it were summed alone: this rank's parts one after another, and each at its place, beside which
// nothing changes. Nothing is written behind the scratch that this rank's parts ask for.
template <class T>
std::string check_joined_sums(const SuiteGroup& g, std::int64_t n) {
  const int ranks = g.size(), rank = g.rank();
  const std::vector<JoinedPart> parts = suite_parts(ranks, n);
  std::int64_t all = 0;
  std::vector<std::int64_t> places;  // of this rank's elements
  for (const JoinedPart& part : parts) {
    const ElementRange range = range_of_rank(part.elements, rank, ranks, part.cuts);
    for (std::int64_t i = 0; i < range.count; ++i) places.push_back(all + range.first + i);
    all += part.elements;
  }
  const std::int64_t element = dtype_bytes(dtype_of<T>()), mine = std::ssize(places);
  constexpr std::byte kGuard{77};
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(ranks, mine * element)) + 1);
  scratch.back() = kGuard;
  std::string faults;
  for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Max}) {
    Guarded<T> in(all), out(mine);
    in.fill(rank);
    const std::int64_t before = g.bytes_sent();
    g.reduce_scatter(in.view(), out.view(), op, scratch.data(), parts);
    faults += compare_bytes(g, "reduce_scatter of parts", before, (ranks - 1) * all * element);
    faults += out.compare("reduce_scatter of parts", [&](std::int64_t i) {
      return suite_reduced<T>(ranks, places[static_cast<std::size_t>(i)], op);
    });
    faults += in.compare("what reduce_scatter of parts read", [&](std::int64_t i) { return suite_value<T>(rank, i); });
    g.reduce_scatter(in.view(), {}, op, scratch.data(), parts);
    faults += in.compare("reduce_scatter of parts in place", [&](std::int64_t i) {
      return std::binary_search(places.begin(), places.end(), i) ? suite_reduced<T>(ranks, i, op)
                                                                 : suite_value<T>(rank, i);
    });
  }
  if (scratch.back() != kGuard) faults += "reduce_scatter of parts wrote behind its scratch\n";
  return faults;
}

// Ranges of a tensor, one of them empty, are summed, and nothing between them.
template <class T>
std::string check_sums_of_ranges(const SuiteGroup& g, std::int64_t n) {
  const int ranks = g.size();
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(ranks)));
  const std::vector<ElementRange> ranges{{1, n}, {n + 3, 0}, {n + 4, 2 * n}, {3 * n + 9, 1}};
  Guarded<T> x(3 * n + 12);
  x.fill(g.rank());
  const std::int64_t before = g.bytes_sent();
  g.all_reduce(x.view(), ReduceOp::Sum, scratch.data(), ranges);
  const std::int64_t element = dtype_bytes(dtype_of<T>());
  return compare_bytes(g, "all_reduce of ranges", before, 2 * (ranks - 1) * (3 * n + 1) * element) +
         x.compare("all_reduce of ranges", [&](std::int64_t i) {
           const bool in = std::any_of(ranges.begin(), ranges.end(), [i](const ElementRange& range) {
             return range.first <= i && i < range.first + range.count;
           });
           return in ? suite_reduced<T>(ranks, i, ReduceOp::Sum) : suite_value<T>(g.rank(), i);
         });
}

// Of one gather, each as if it were gathered alone.
template <class T>
std::string check_parts(const SuiteGroup& g, std::int64_t n) {
  std::string faults;
  const int ranks = g.size();
  const std::vector<JoinedPart> parts = suite_parts(ranks, n);
  std::int64_t mine = 0, all = 0;
  for (const JoinedPart& part : parts) {
    mine += range_of_rank(part.elements, g.rank(), ranks, part.cuts).count;
    all += part.elements;
  }
  Guarded<T> in(mine), out(all);
  in.fill(g.rank());
  const std::int64_t before = g.bytes_sent();
  g.all_gather(in.view(), out.view(), parts);
  faults += compare_bytes(g, "all_gather of parts", before, (ranks - 1) * out.view().spec.bytes());
  return faults + out.compare("all_gather of parts", [&](std::int64_t i) {
    std::vector<std::int64_t> first(static_cast<std::size_t>(ranks), 0);  // of the tensor, in what each rank has
    for (const JoinedPart& part : parts) {
      for (int r = 0; r < ranks; ++r) {
        const ElementRange range = range_of_rank(part.elements, r, ranks, part.cuts);
        if (i < part.elements && i >= range.first && i < range.first + range.count)
          return suite_value<T>(r, first[static_cast<std::size_t>(r)] + i - range.first);
        first[static_cast<std::size_t>(r)] += range.count;
      }
      i -= part.elements;
    }
    return T{};
  });
}

template <class T>
std::string check_moves(const SuiteGroup& g, std::int64_t n) {
  std::string faults;
  const int ranks = g.size(), rank = g.rank();
  const auto gathered = [&](std::int64_t i) { return suite_value<T>(static_cast<int>(i / n), i % n); };
  Guarded<T> mine(n), all(n * ranks), in_place(n * ranks);
  mine.fill(rank);
  const std::int64_t before = g.bytes_sent();
  g.all_gather(mine.view(), all.view());
  faults += compare_bytes(g, "all_gather", before, (ranks - 1) * all.view().spec.bytes());
  faults += all.compare("all_gather", gathered);
  std::copy_n(mine.all.begin(), n, in_place.all.begin() + n * rank);
  g.all_gather(in_place.view(n * rank, n), in_place.view());
  faults += in_place.compare("all_gather in place", gathered);
  faults += check_parts<T>(g, n);
  for (int root = 0; root < ranks; ++root) {
    Guarded<T> x(n);
    x.fill(rank);
    g.broadcast(x.view(), root);
    faults += x.compare("broadcast", [&](std::int64_t i) { return suite_value<T>(root, i); });
  }
  // Once around: rank 0's tensor comes back to it.
  if (ranks == 1) return faults;
  Guarded<T> token(n);
  if (rank == 0) {
    token.fill(0);
    g.send(token.view(), 1);
    std::fill_n(token.all.begin(), n, T{0});
  }
  g.receive(token.view(), (rank + ranks - 1) % ranks);
  if (rank != 0) g.send(token.view(), (rank + 1) % ranks);
  return faults + token.compare("send and receive", [&](std::int64_t i) { return suite_value<T>(0, i); });
}

// Parts of n, 2n and no elements, with the scratch that its own part asks of a rank.
template <class T>
std::string check_uneven(const SuiteGroup& g, std::int64_t n) {
  const int ranks = g.size(), rank = g.rank();
  RankCuts cuts{0};
  for (int r = 0; r < ranks; ++r) cuts.push_back(cuts.back() + (r + 1) % 3 * n);
  const ElementRange mine = range_of_rank(cuts.back(), rank, ranks, cuts);
  const std::int64_t element = dtype_bytes(dtype_of<T>());
  constexpr std::byte kGuard{77};
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(ranks, mine.count * element)) + 1);
  scratch.back() = kGuard;
  Guarded<T> whole(cuts.back()), part(mine.count), all(cuts.back()), in_place(cuts.back());
  whole.fill(rank);
  std::int64_t before = g.bytes_sent();
  g.reduce_scatter(whole.view(), part.view(), ReduceOp::Sum, scratch.data(), cuts);
  std::string faults = compare_bytes(g, "uneven reduce_scatter", before, (ranks - 1) * cuts.back() * element);
  const auto reduced = [&](std::int64_t i) { return suite_reduced<T>(ranks, i, ReduceOp::Sum); };
  faults += part.compare("uneven reduce_scatter", [&](std::int64_t i) { return reduced(mine.first + i); });
  if (scratch.back() != kGuard) faults += "uneven reduce_scatter wrote behind its scratch\n";
  before = g.bytes_sent();
  g.all_gather(part.view(), all.view(), cuts);
  faults += compare_bytes(g, "uneven all_gather", before, (ranks - 1) * cuts.back() * element);
  faults += all.compare("uneven all_gather", reduced);
  std::copy_n(part.all.begin(), mine.count, in_place.all.begin() + mine.first);
  g.all_gather(in_place.view(mine.first, mine.count), in_place.view(), cuts);
  return faults + in_place.compare("uneven all_gather in place", reduced);
}

inline std::string check_host_values(const SuiteGroup& g) {
  std::string faults;
  const int ranks = g.size();
  const double triangle = ranks * (ranks + 1) / 2.0;
  if (g.sum(g.rank() + 1.0) != triangle) faults += "sum\n";
  if (g.max(-g.rank()) != 0) faults += "max\n";
  std::vector<std::int64_t> all(static_cast<std::size_t>(ranks));
  const std::int64_t mine = 10 + g.rank();
  g.gather_values(&mine, sizeof(mine), all.data());
  for (int r = 0; r < ranks; ++r) {
    if (all[static_cast<std::size_t>(r)] != 10 + r) faults += fmt::format("gather_values: place {}\n", r);
  }
  g.barrier();
  return faults;
}

// A NaN of any rank, in whatever place of the order, is the maximum.
template <class T>
std::string check_nan_of(const SuiteGroup& g) {
  std::string faults;
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int sick = 0; sick < g.size(); ++sick) {
    Guarded<T> x(3);
    for (std::int64_t i = 0; i < 3; ++i)
      x[i] = static_cast<T>(i == 1 && g.rank() == sick ? nan : static_cast<float>(g.rank()));
    g.all_reduce(x.view(), ReduceOp::Max, scratch.data());
    const auto found = [&](std::int64_t i) { return static_cast<float>(x[i]); };
    const auto most = static_cast<float>(g.size() - 1);
    if (found(0) != most || !std::isnan(found(1)) || found(2) != most)
      faults += fmt::format("all_reduce of {}: the NaN of rank {}\n", dtype_name(dtype_of<T>()), sick);
  }
  return faults;
}

inline std::string check_nan(const SuiteGroup& g) {
  std::string faults = check_nan_of<double>(g) + check_nan_of<float>(g) + check_nan_of<bf16>(g) + check_nan_of<f16>(g);
  for (int sick = 0; sick < g.size(); ++sick) {
    const double mine = g.rank() == sick ? std::numeric_limits<double>::quiet_NaN() : 1.0;
    if (!std::isnan(g.max(mine))) faults += fmt::format("max: the NaN of rank {}\n", sick);
  }
  return faults;
}

// Sums that would lose every further rank if they were rounded between ranks: 1 and then halves of its last place.
template <class T>
std::string check_rounded_once(const SuiteGroup& g) {
  const float half_of_last = dtype_of<T>() == DType::bf16 ? 0x1p-8F : 0x1p-11F;
  Guarded<T> x(5);
  for (std::int64_t i = 0; i < 5; ++i) x[i] = static_cast<T>(g.rank() == 0 ? 1.0F : half_of_last);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
  g.all_reduce(x.view(), ReduceOp::Sum, scratch.data());
  return x.compare("a sum that is rounded once", [&](std::int64_t) {
    return static_cast<T>(1.0F + static_cast<float>(g.size() - 1) * half_of_last);
  });
}

template <class T>
std::string check_dtype(const SuiteGroup& g) {
  std::string faults;
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{1}, std::int64_t{g.size() - 1}, std::int64_t{600001}}) {
    faults += check_reductions<T>(g, n);
    faults += check_moves<T>(g, std::min<std::int64_t>(n, 70001));
    faults += check_uneven<T>(g, std::min<std::int64_t>(n, 70001));
    faults += check_joined_sums<T>(g, std::min<std::int64_t>(n, 200001));
    faults += check_sums_of_ranges<T>(g, std::min<std::int64_t>(n, 200001));
  }
  return faults;
}

struct SuiteCase {
  const char* name;
  std::string (*check)(const SuiteGroup&);
};
inline constexpr SuiteCase kCollectiveSuite[] = {
    {"f32", check_dtype<float>},
    {"f64", check_dtype<double>},
    {"bf16", check_dtype<bf16>},
    {"f16", check_dtype<f16>},
    {"i32", check_dtype<std::int32_t>},
    {"i64", check_dtype<std::int64_t>},
    {"rounded_once_bf16", check_rounded_once<bf16>},
    {"rounded_once_f16", check_rounded_once<f16>},
    {"host_values", check_host_values},
    {"nan", check_nan},
};

}  // namespace plimsoll
