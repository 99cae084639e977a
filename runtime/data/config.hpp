#pragma once
// The data section of a configuration: which token files, how much of them is for validation, how long a sequence is.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

// What the ids of a file are; Auto: what its .idx or header says, for a raw .bin what its ids show (raw_format.hpp).
enum class TokenType { Auto, Uint16, Uint32 };
constexpr std::array<EnumName, 3> enum_names(TokenType) {
  return {named(TokenType::Auto, "auto"), named(TokenType::Uint16, "uint16"), named(TokenType::Uint32, "uint32")};
}

struct DataSource {
  std::string path;     // prefix of .bin/.idx
  double weight = 1.0;  // share of the samples, relative to the other sources
  bool operator==(const DataSource&) const = default;
};

struct DataConfig {
  std::vector<DataSource> train;              // required; a single path is a list of one
  double validation = 0.05;                   // the last part of each file of `train`; 0: none
  std::vector<std::string> validation_files;  // instead of a fraction: prefixes of .bin/.idx (`validation` is then 0)
  std::int64_t sequence = 256;                // tokens a sample predicts
  TokenType dtype = TokenType::Auto;
  bool operator==(const DataConfig&) const = default;
};

KeyTable<DataConfig> data_keys();

}  // namespace plimsoll
