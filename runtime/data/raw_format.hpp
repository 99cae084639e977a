#pragma once
// How wide the ids of a raw .bin are: nothing in the file says it.

#include "runtime/data/config.hpp"
#include "runtime/data/files.hpp"

namespace plimsoll {

// The ids themselves decide. A reading fits when all its ids are below `vocabulary`; the whole file is looked at, in
// bounded memory. Only one fits: it is that one. Both fit: uint32, because then every second 16-bit word is (almost)
// zero, which no text in uint16 has. A file of an odd number of 16-bit words is uint16.
// Error(BadData) naming byte and value when neither fits; Error(Config) asking for data.dtype when it cannot be known:
// both fit, and the file has fewer than 64 16-bit words or nothing but zeros.
TokenType detect_raw_type(const InputFile& file, std::int64_t vocabulary);

}  // namespace plimsoll
