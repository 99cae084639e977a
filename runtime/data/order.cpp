#include "runtime/data/order.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace plimsoll {
namespace {

constexpr std::uint32_t kFeistelRounds = 6;

// a · b / c to the nearest integer, without overflow.
std::int64_t scaled(std::int64_t a, std::int64_t b, std::int64_t c) {
  return static_cast<std::int64_t>((static_cast<__int128>(a) * b * 2 + c) / (static_cast<__int128>(c) * 2));
}

}  // namespace

KeyedPermutation::KeyedPermutation(std::int64_t size, std::uint64_t seed, std::uint64_t source, std::uint64_t epoch)
    : size_(static_cast<std::uint64_t>(size)) {
  const int bits = std::bit_width(size_ - 1);
  half_bits_ = std::max(1, (bits + 1) / 2);
  // One Philox call turns the names into a key of its own, so that permutations of different epochs have nothing in
  // common.
  const PhiloxCounter derived = RandomStream(seed, stream_id("data.order") + source).block(epoch);
  key_ = {derived[0], derived[1]};
  salt_ = derived[2];
}

std::uint64_t KeyedPermutation::permute(std::uint64_t value) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_;
  std::uint64_t right = value & mask;
  for (std::uint32_t round = 0; round < kFeistelRounds; ++round) {
    const auto r = static_cast<std::uint32_t>(right);
    const std::uint64_t mixed = left ^ (philox4x32({r, round, salt_, 0}, key_)[0] & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits_ | right;
}

std::int64_t KeyedPermutation::operator()(std::int64_t index) const {
  auto value = static_cast<std::uint64_t>(index);
  do {
    value = permute(value);
  } while (value >= size_);
  return static_cast<std::int64_t>(value);
}

MixturePlace mixture_place(std::int64_t position, std::span<const std::int64_t> quotas) {
  std::size_t first = 0;
  while (quotas.size() > 1) {
    // Of `total` positions, those where round(p · left / total) steps up belong to the left half of the sources.
    const std::size_t half = quotas.size() / 2;
    const std::int64_t left =
        std::accumulate(quotas.begin(), quotas.begin() + static_cast<std::ptrdiff_t>(half), std::int64_t{0});
    const std::int64_t total = std::accumulate(quotas.begin() + static_cast<std::ptrdiff_t>(half), quotas.end(), left);
    const std::int64_t before = scaled(position, left, total);
    if (scaled(position + 1, left, total) > before) {
      position = before;
      quotas = quotas.first(half);
    } else {
      position -= before;
      quotas = quotas.subspan(half);
      first += half;
    }
  }
  return {first, position};
}

std::vector<std::int64_t> proportional_shares(std::int64_t total, std::span<const double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> shares;
  std::vector<double> remainders;
  for (const double weight : weights) {
    const double exact = static_cast<double>(total) * (weight / sum);
    shares.push_back(std::min(static_cast<std::int64_t>(exact), total));
    remainders.push_back(exact - std::floor(exact));
  }
  std::vector<std::size_t> by_remainder(shares.size());
  std::iota(by_remainder.begin(), by_remainder.end(), std::size_t{0});
  std::ranges::stable_sort(by_remainder, [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  std::int64_t left = total - std::accumulate(shares.begin(), shares.end(), std::int64_t{0});
  for (std::size_t i = 0; left != 0; i = (i + 1) % shares.size()) {
    const std::int64_t step = left > 0 ? 1 : -1;  // rounding of huge totals can also give away too many
    if (shares[by_remainder[i]] + step < 0) continue;
    shares[by_remainder[i]] += step;
    left -= step;
  }
  return shares;
}

}  // namespace plimsoll
