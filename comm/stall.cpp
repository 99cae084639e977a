#include "comm/stall.hpp"

#include <fmt/format.h>

namespace plimsoll {

std::string name_of_call(const RankState& s) {
  const std::string_view op = text_of(s.op), label = text_of(s.label);
  const std::string name = label.empty() ? std::string(op) : fmt::format("{} '{}'", op, label);
  const std::string peer = s.peer < 0 ? "" : fmt::format(" {} rank {}", op == "send" ? "to" : "from", s.peer);
  return fmt::format("{}{} over axis {}, {} {}, {} bytes", name, peer, text_of(s.axis), s.peer < 0 ? "call" : "message",
                     s.sequence, s.bytes);
}

std::int64_t calls_of(const RankState& s, std::string_view axis) {
  for (const RankState::Calls& c : s.begun) {
    if (text_of(c.axis) == axis) return c.count;
  }
  return 0;
}

std::string what_it_does(const std::optional<RankState>& s) {
  if (!s) return "does not answer";
  return s->waits != 0 ? fmt::format("waits in {}", name_of_call(*s)) : "is in no collective";
}

}  // namespace plimsoll
