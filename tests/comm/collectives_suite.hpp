#pragma once
// What every transport must do: called by all ranks of a group, each with its own `Group`. A check returns its faults
// as text, empty when there are none, and never stops early: all ranks make the same calls whatever they find.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "comm/group.hpp"

namespace plimsoll {

template <class T>
constexpr DType suite_dtype() {
  if (std::is_same_v<T, float>) return DType::f32;
  if (std::is_same_v<T, double>) return DType::f64;
  return std::is_same_v<T, std::int32_t> ? DType::i32 : DType::i64;
}

// Rank r's element i. Floats of many magnitudes, so that another order of summation gives other bits.
template <class T>
T suite_value(int rank, std::int64_t i) {
  std::uint64_t h = (static_cast<std::uint64_t>(i) * 64 + static_cast<std::uint64_t>(rank) + 1) * 0x9E3779B97F4A7C15U;
  h ^= h >> 29;
  const auto integer = static_cast<std::int32_t>(h % 2000003U) - 1000001;
  if constexpr (std::is_integral_v<T>) return integer;
  return static_cast<T>(std::ldexp(static_cast<double>(integer) / 1000001.0, static_cast<int>(h >> 60)));
}

template <class T>
T suite_reduced(int ranks, std::int64_t i, ReduceOp op) {
  T total = suite_value<T>(0, i);
  for (int r = 1; r < ranks; ++r) {
    const T next = suite_value<T>(r, i);
    total = op == ReduceOp::Sum ? total + next : std::max(total, next);
  }
  return total;
}

// A tensor with one element behind it that nobody may touch.
template <class T>
struct Guarded {
  static constexpr T kGuard = 77;
  std::vector<T> all;
  explicit Guarded(std::int64_t n) : all(static_cast<std::size_t>(n) + 1, T{0}) { all.back() = kGuard; }
  std::int64_t size() const { return static_cast<std::int64_t>(all.size()) - 1; }
  T& operator[](std::int64_t i) { return all[static_cast<std::size_t>(i)]; }
  View view(std::int64_t first, std::int64_t n) { return {all.data() + first, {{n}, suite_dtype<T>()}}; }
  View view() { return view(0, size()); }
  void fill(int rank, std::int64_t first = 0) {
    for (std::int64_t i = 0; i < size(); ++i) (*this)[i] = suite_value<T>(rank, first + i);
  }
  // A fault's text when an element differs by a bit from expected(i), or the guard was touched.
  template <class Expected>
  std::string compare(const std::string& what, const Expected& expected) {
    for (std::int64_t i = 0; i < size(); ++i) {
      const T e = expected(i);
      if (std::memcmp(&(*this)[i], &e, sizeof(T)) != 0) {
        return fmt::format("{} of {} {}: element {} is {}, not {}\n", what, size(), dtype_name(suite_dtype<T>()), i,
                           (*this)[i], e);
      }
    }
    return all.back() == kGuard ? "" : fmt::format("{} wrote behind its {} elements\n", what, size());
  }
};

// The bytes that all ranks together sent since `before`; the call itself is not counted.
inline std::string compare_bytes(const Group& g, const char* what, std::int64_t before, std::int64_t expected) {
  const double sent = g.sum(static_cast<double>(g.bytes_sent() - before));
  if (sent == static_cast<double>(expected)) return "";
  return fmt::format("{}: the ranks sent {} bytes, not {}\n", what, sent, expected);
}

template <class T>
std::string check_reductions(const Group& g, std::int64_t n) {
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

template <class T>
std::string check_moves(const Group& g, std::int64_t n) {
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

inline std::string check_host_values(const Group& g) {
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
inline std::string check_nan(const Group& g) {
  std::string faults;
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int sick = 0; sick < g.size(); ++sick) {
    Guarded<double> x(3);
    for (std::int64_t i = 0; i < 3; ++i) x[i] = i == 1 && g.rank() == sick ? nan : g.rank();
    g.all_reduce(x.view(), ReduceOp::Max, scratch.data());
    const double most = g.size() - 1;
    if (x[0] != most || !std::isnan(x[1]) || x[2] != most)
      faults += fmt::format("all_reduce: the NaN of rank {}\n", sick);
    if (!std::isnan(g.max(g.rank() == sick ? nan : 1.0))) faults += fmt::format("max: the NaN of rank {}\n", sick);
  }
  return faults;
}

template <class T>
std::string check_dtype(const Group& g) {
  std::string faults;
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{1}, std::int64_t{g.size() - 1}, std::int64_t{600001}}) {
    faults += check_reductions<T>(g, n);
    faults += check_moves<T>(g, std::min<std::int64_t>(n, 70001));
  }
  return faults;
}

struct SuiteCase {
  const char* name;
  std::string (*check)(const Group&);
};
inline constexpr SuiteCase kCollectiveSuite[] = {
    {"f32", check_dtype<float>},        {"f64", check_dtype<double>},       {"i32", check_dtype<std::int32_t>},
    {"i64", check_dtype<std::int64_t>}, {"host_values", check_host_values}, {"nan", check_nan},
};

}  // namespace plimsoll
