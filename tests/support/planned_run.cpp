#include "tests/support/planned_run.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_mesh.hpp"

namespace plimsoll::test {
namespace {

// Of the global batch, the first that this rank's replica has.
std::int64_t first_row(const ProgramOptions& o, int rank) {
  const int replica = coordinates(o.mesh, rank).data;
  if (o.shares.empty()) return replica * o.micro_batches * o.micro_batch;
  return o.micro_batch * std::accumulate(o.shares.begin(), o.shares.begin() + replica, std::int64_t{0});
}

}  // namespace

PlannedRun run_as_planned(const ProgramOptions& options, std::int64_t rows, std::int64_t steps) {
  PlannedRun run;
  const auto ranks = static_cast<std::size_t>(options.mesh.ranks());
  for (auto* bytes : {&run.planned, &run.high_water, &run.host_planned, &run.host_high_water}) bytes->resize(ranks);
  run.losses.resize(ranks);
  on_mesh(options.mesh, [&](int rank, const Groups& groups) {
    ProgramOptions mine = options;
    mine.rank = rank;
    EngineOptions engine_options;
    for (const auto& [axis, group] : groups) engine_options.groups[axis] = &group;
    Engine engine(build_programs(mine), engine_options);
    engine.initialise(1);
    const std::int64_t share = micro_batches_of(mine, rank) * mine.micro_batch;
    const auto r = static_cast<std::size_t>(rank);
    if (mine.evaluate) {  // first: an update waits for all that the device does
      const TinyBatch batch = tiny_batch(mine, 1, 0, mine.micro_batch);
      double sum = 0, count = 0;
      engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
    }
    for (std::int64_t step = 0; step < steps; ++step)
      run.losses[r] = tiny_step(engine, mine, step, first_row(mine, rank), share, rows).loss();
    const MemoryPlan& plan = engine.programs().plan;
    run.planned[r] = plan.total_bytes;
    run.high_water[r] = engine.arena().high_water();
    run.host_planned[r] = plan.host_bytes;
    run.host_high_water[r] = engine.host_arena() != nullptr ? engine.host_arena()->high_water() : 0;
  });
  return run;
}

void expect_as_planned(const PlannedRun& run) {
  EXPECT_EQ(run.high_water, run.planned);
  EXPECT_EQ(run.host_high_water, run.host_planned);
  for (const double loss : run.losses) EXPECT_TRUE(std::isfinite(loss)) << loss;
}

}  // namespace plimsoll::test
