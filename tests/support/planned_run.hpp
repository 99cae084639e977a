#pragma once
// Steps of a run exactly as it was planned, with a thread for each rank: what it touched beside what was planned.

#include <cstdint>
#include <vector>

#include "launch/programs.hpp"

namespace plimsoll::test {

struct PlannedRun {
  // Bytes by rank: of the arena, and of that in host memory.
  std::vector<std::int64_t> planned, high_water, host_planned, host_high_water;
  std::vector<double> losses;  // by rank, of the last step
};

// Each rank builds the programs of `options` for itself, which are the choices of a run, and does, where it
// evaluates, that with one micro-batch and then `steps` optimizer steps on global batches of `rows` sequences. Throws
// what a rank throws.
PlannedRun run_as_planned(const ProgramOptions& options, std::int64_t rows, std::int64_t steps = 1);

// Nothing was touched beyond the plan, and all of it: to the byte, on every rank. The losses are numbers.
void expect_as_planned(const PlannedRun& run);

}  // namespace plimsoll::test
