#pragma once
// The order of samples, in closed form and without memory: a keyed permutation, and an even mixture of several sources.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/core/rng.hpp"

namespace plimsoll {

// A permutation of [0, size) that is a pure function of (seed, number): a Feistel network over the next power of four,
// with Philox as its round function, walked until it lands inside (Black and Rogaway, "Ciphers with Arbitrary Finite
// Domains", CT-RSA 2002). Constant memory; fewer than four walks on average.
class KeyedPermutation {
 public:
  // `size` ≥ 1; `source` and `epoch` name the permutation under the seed.
  KeyedPermutation(std::int64_t size, std::uint64_t seed, std::uint64_t source, std::uint64_t epoch);
  std::int64_t operator()(std::int64_t index) const;

 private:
  std::uint64_t permute(std::uint64_t value) const;
  std::uint64_t size_;
  int half_bits_;
  PhiloxKey key_;
  std::uint32_t salt_;
};

// Spreads the sources over an epoch: source i gets quota[i] of its positions, evenly: of the first p it gets
// p · quota[i] / total, give or take 1/2 for each halving of the list of sources.
struct MixturePlace {
  std::size_t source;
  std::int64_t index;  // how many earlier positions of the epoch went to this source
};
MixturePlace mixture_place(std::int64_t position, std::span<const std::int64_t> quotas);

// Shares of `total` in proportion to the weights, by largest remainder; they add up to `total`.
std::vector<std::int64_t> proportional_shares(std::int64_t total, std::span<const double> weights);

}  // namespace plimsoll
