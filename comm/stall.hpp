#pragma once
// What watchdogs of different ranks tell each other, and how.

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/core/error.hpp"

namespace plimsoll {

// Report: to all others, when a call of any rank is late. Question: to the ranks that a call waits for outside of
// steps, where they may have good reason; who is alive answers.
enum class TellKind : std::int32_t { Report, Question, Answer };

// What a rank tells another. Of fixed size: it travels as bytes.
struct RankState {
  static constexpr std::size_t kGroups = 12;
  struct Calls {
    std::array<char, 16> axis{};
    std::int64_t count = 0;
  };
  TellKind kind = TellKind::Report;
  std::int32_t rank = 0, waits = 0;  // waits: in the call below
  std::int64_t sequence = 0, bytes = 0, peer = -1;
  double seconds = 0;
  std::array<char, 16> axis{}, op{};
  std::array<char, 80> label{};
  std::array<Calls, kGroups> begun{};
};

// Between the watchdogs of all ranks; neither call waits for anybody.
class StallChannel {
 public:
  virtual ~StallChannel() = default;
  virtual void tell(const RankState& mine, int rank) = 0;
  virtual bool poll(RankState& theirs) = 0;  // false: nothing has come
};

// What is reported: op, label, axis, number, bytes and the ranks that have not arrived.
struct Stall {
  std::string text;
  bool told_by_another = false;  // a lower rank that is alive reports as well
  ErrorKind kind = ErrorKind::PeerLost;
};

// Of a fixed-size text, without what fills it up.
template <std::size_t n>
std::string_view text_of(const std::array<char, n>& from) {
  return {from.data(), static_cast<std::size_t>(std::find(from.begin(), from.end(), '\0') - from.begin())};
}

// "all_reduce 'reduce.bucket0' over axis data, call 57, 1234 bytes",
// "send 'output of micro-batch 3 for piece 1' to rank 2 over axis pipeline, message 5, 1234 bytes".
std::string name_of_call(const RankState& state);
// "waits in …", "is in no collective", or of a rank that is not heard of: "does not answer".
std::string what_it_does(const std::optional<RankState>& state);
// The collectives over an axis that it has begun.
std::int64_t calls_of(const RankState& state, std::string_view axis);

}  // namespace plimsoll
