#include "launch/handshake.hpp"

#include <xxhash.h>

#include <array>
#include <map>

#include "comm/group.hpp"
#include "launch/process.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

struct Item {
  std::string_view name;
  std::uint64_t hash;
};

}  // namespace

void agree(const Group& control, const Config& config, const Place& place) {
  const std::string text = dump_config(config);
  const std::array<Item, 2> items{Item{"build", hash_of_binary()}, Item{"config", XXH64(text.data(), text.size(), 0)}};
  for (const Item& item : items) {
    std::vector<std::uint64_t> all(static_cast<std::size_t>(place.ranks));
    control.gather_values(&item.hash, sizeof(item.hash), all.data());
    std::map<std::uint64_t, std::vector<std::string>> ranks_of;
    for (std::size_t r = 0; r < all.size(); ++r) ranks_of[all[r]].push_back(std::to_string(r));
    if (ranks_of.size() == 1) continue;
    std::size_t most = 0;
    for (const auto& [hash, ranks] : ranks_of) most = std::max(most, ranks.size());
    // The majority is the largest group; of equal ones, that of the lowest rank.
    std::uint64_t majority = 0;
    for (std::size_t r = all.size(); r-- > 0;) {
      if (ranks_of[all[r]].size() == most) majority = all[r];
    }
    std::vector<std::string> minority;
    for (std::size_t r = 0; r < all.size(); ++r) {
      if (all[r] != majority) minority.push_back(std::to_string(r));
    }
    fail(ErrorKind::RanksDisagree, "the ranks do not agree about the {}: rank(s) {} differ from the other {} of {}",
         item.name, join(minority, ", "), most, place.ranks);
  }
}

}  // namespace plimsoll
