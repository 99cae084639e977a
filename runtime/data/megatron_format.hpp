#pragma once
// Layout of the header of a Megatron-LM .idx file (megatron/core/datasets/indexed_dataset.py): shared by reader and
// writer.

#include <array>
#include <cstdint>

namespace plimsoll {

inline constexpr std::array<char, 9> kMegatronMagic{'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
inline constexpr std::uint64_t kMegatronVersion = 1;
inline constexpr std::uint8_t kMegatronInt32 = 4;
inline constexpr std::uint8_t kMegatronUint16 = 8;
// Megatron takes uint16 for vocabularies below this size, int32 otherwise.
inline constexpr std::int64_t kMegatronUint16Vocabulary = 65500;
// Byte offsets of the fields.
inline constexpr std::int64_t kMegatronVersionOffset = 9;
inline constexpr std::int64_t kMegatronTypeOffset = 17;
inline constexpr std::int64_t kMegatronSequencesOffset = 18;
inline constexpr std::int64_t kMegatronDocumentsOffset = 26;
inline constexpr std::int64_t kMegatronHeaderBytes = 34;

}  // namespace plimsoll
