#pragma once
// Seeded instances of offset assignment with a known optimum, for the tests of this folder.

#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/core/rng.hpp"
#include "runtime/plan/offsets.hpp"

namespace plimsoll::test {

// Draws whole numbers in order from one seeded stream.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : stream_(seed, "offsets_test") {}
  int below(int end) { return static_cast<int>(stream_.bits(drawn_++) % static_cast<std::uint32_t>(end)); }

 private:
  RandomStream stream_;
  std::uint64_t drawn_ = 0;
};

// Cuts [first, last] × height units by guillotine cuts until `pieces` rectangles are left: they fill it without waste.
inline std::vector<Lifetime> guillotine(int positions, int height, std::size_t pieces, Dice& dice) {
  std::vector<std::pair<Lifetime, int>> parts{{{512LL * height, 0, positions - 1}, height}};
  for (int attempt = 0; parts.size() < pieces && attempt < 100'000; ++attempt) {
    auto& [part, part_height] = parts[dice.below(static_cast<int>(parts.size()))];
    const int length = part.last - part.first + 1;
    auto other = part;
    int other_height = part_height;
    if (dice.below(2) == 0 && length > 1) {
      part.last = part.first + dice.below(length - 1);
      other.first = part.last + 1;
    } else if (part_height > 1) {
      other_height = 1 + dice.below(part_height - 1);
      part_height -= other_height;
      part.bytes = 512LL * part_height;
      other.bytes = 512LL * other_height;
    } else {
      continue;
    }
    parts.emplace_back(other, other_height);
  }
  std::vector<Lifetime> lifetimes;
  for (const auto& part : parts) lifetimes.push_back(part.first);
  return lifetimes;
}

}  // namespace plimsoll::test
