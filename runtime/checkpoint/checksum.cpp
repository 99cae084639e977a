#include "runtime/checkpoint/checksum.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include "runtime/core/error.hpp"

namespace plimsoll {

void Checksum::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

Checksum::Checksum() : state_(XXH3_createState()) {
  require(state_ != nullptr && XXH3_64bits_reset(state_.get()) == XXH_OK, ErrorKind::OutOfMemory,
          "no memory for the state of a checksum");
}

void Checksum::add(const void* data, std::size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }

std::string Checksum::hex() const { return fmt::format("{:016x}", XXH3_64bits_digest(state_.get())); }

std::string checksum_of(const void* data, std::size_t bytes) {
  return fmt::format("{:016x}", XXH3_64bits(data, bytes));
}

}  // namespace plimsoll
