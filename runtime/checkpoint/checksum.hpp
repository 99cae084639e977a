#pragma once
// XXH3, 64 bit (xxhash.com): a fast checksum against damage, not against an attacker.

#include <cstddef>
#include <memory>
#include <string>

struct XXH3_state_s;

namespace plimsoll {

inline constexpr const char* kChecksumName = "xxh3_64";

class Checksum {
 public:
  Checksum();
  void add(const void* data, std::size_t bytes);
  // Of everything added so far: 16 hexadecimal digits.
  std::string hex() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

// Of one piece of memory.
std::string checksum_of(const void* data, std::size_t bytes);

}  // namespace plimsoll
