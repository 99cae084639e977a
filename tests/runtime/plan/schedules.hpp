#pragma once
// Schedules of many sizes, for the tests of schedules, their check, the simulator and the chart.

#include <fmt/format.h>

#include <string>

#include "runtime/plan/schedule.hpp"

namespace plimsoll::test {

inline std::string name(const Schedule& s) {
  return fmt::format("{} stages {} micro-batches {} chunks {}", to_text(s.kind), s.stages, s.micro_batches, s.chunks);
}

// Every schedule of at most `stages` stages and `micro_batches` micro-batches, and of 2 to 4 chunks if interleaved.
template <class Visit>
void for_each_schedule(int stages, int micro_batches, Visit visit) {
  for (int p = 1; p <= stages; ++p) {
    for (int m = 1; m <= micro_batches; ++m) {
      for (const auto kind : {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
        visit(make_schedule(kind, p, m));
      }
      for (int v = 2; v <= 4 && m % p == 0; ++v) visit(make_schedule(ScheduleKind::Interleaved, p, m, v));
    }
  }
}

}  // namespace plimsoll::test
