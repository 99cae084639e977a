#pragma once
// Replays a memory plan position by position and checks it against nothing but its own claims. It shares no code with
// the planner: what one gets wrong the other must catch. Used by tests and by `plan --verify`.

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace plimsoll {

// A buffer of the plan: bytes at [offset, offset + bytes), live in [first, last], inclusive positions.
struct PlacedItem {
  std::string name;
  std::int64_t bytes;
  int first;
  int last;
  std::int64_t offset;
};

enum class AccessKind { Read, Write };

// One use of a buffer: `item` indexes the span of items. Accesses at one position: reads happen before writes.
struct Access {
  int position;
  int item;
  AccessKind kind;
};

// The first violation in words with the names of the buffers, or nullopt when the plan holds:
//   - each buffer has bytes > 0, offset >= 0 and last >= first;
//   - no two buffers that are live at one position share a byte;
//   - the largest offset + bytes equals `peak_bytes`.
std::optional<std::string> replay(std::span<const PlacedItem> items, std::int64_t peak_bytes);

// The same, and moreover: each access lies within the lifetime of its buffer, and each read finds an earlier write of
// the same lifetime. Bytes carry the mark of their last writer during the replay, so a read also fails when anything
// wrote over part of its buffer since. Accesses may come in any order; they are replayed by position.
std::optional<std::string> replay(std::span<const PlacedItem> items, std::span<const Access> accesses,
                                  std::int64_t peak_bytes);

}  // namespace plimsoll
