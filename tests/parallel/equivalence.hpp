#pragma once
// The same training run on one rank and on a mesh of threads.

#include <gtest/gtest.h>

#include "launch/allocation_counter.hpp"
#include "runtime/core/text.hpp"
#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_mesh.hpp"

namespace plimsoll::test {

struct Layout {
  Mesh mesh;
  int zero = 0;
  bool sequence = false;
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  int chunks = 1;
};
inline std::string name_of(const Layout& l) {
  return fmt::format("data{}_pipeline{}_tensor{}_zero{}_shards{}{}_{}{}", l.mesh.data, l.mesh.pipeline, l.mesh.tensor,
                     l.zero, l.mesh.shards, l.sequence ? "_sequence" : "", to_text(l.schedule), l.chunks);
}

struct RunResult {
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> initial, final;  // tensors of the model
  std::vector<std::int64_t> planned, high_water;    // by rank
  std::vector<ClassBytes> classes;
  std::map<std::string, std::int64_t> sent;  // of rank 0, by axis, by the steps alone
  std::int64_t allocations = 0;              // by ops of all ranks after the first step
};

template <class T>
std::vector<std::vector<double>> whole_tensors(Engine& engine, std::string_view region) {
  std::vector<std::vector<double>> all;
  for (std::size_t t = 0; t < engine.programs().tensors.size(); ++t) {
    const std::int64_t n = engine.programs().tensors[t].shape.elements();
    std::vector<T> values(static_cast<std::size_t>(n));
    engine.gather(region, t, 0, n, values.data());
    all.emplace_back(values.begin(), values.end());
  }
  return all;
}

// `steps` steps of `rows` rows; o.micro_batch rows at a time on each replica.
inline RunResult train_on(const Layout& layout, ProgramOptions o, std::int64_t rows, std::int64_t steps) {
  RunResult result;
  const auto ranks = static_cast<std::size_t>(layout.mesh.ranks());
  result.planned.resize(ranks);
  result.high_water.resize(ranks);
  result.classes.resize(ranks);
  on_mesh(layout.mesh, [&](int rank, const Groups& groups) {
    ProgramOptions mine = o;
    mine.mesh = layout.mesh;
    mine.zero = layout.zero;
    mine.sequence_parallel = layout.sequence;
    mine.rank = rank;
    mine.schedule = layout.schedule;
    mine.chunks = layout.chunks;
    mine.micro_batches = rows / layout.mesh.data / o.micro_batch;
    EngineOptions options;
    for (const auto& [axis, group] : groups) options.groups[axis] = &group;
    Engine engine(build_programs(mine), options);
    engine.initialise(1);
    const auto tensors = [&] {
      return o.dtype == DType::f64 ? whole_tensors<double>(engine, "parameters")
                                   : whole_tensors<float>(engine, "parameters");
    };
    auto initial = tensors();
    std::map<std::string, std::int64_t> before;
    for (const auto& [axis, group] : groups) before[axis] = group.bytes_sent();
    const std::int64_t share = rows / layout.mesh.data;
    std::vector<double> losses, norms;
    for (std::int64_t step = 0; step < steps; ++step) {
      const StepResult s = tiny_step(engine, mine, step, coordinates(layout.mesh, rank).data * share, share, rows);
      losses.push_back(s.loss());
      norms.push_back(s.grad_norm);
      if (rank == 0 && step == 0) AllocationCounter::start();
    }
    const auto at = static_cast<std::size_t>(rank);
    if (rank == 0) {
      result.allocations = AllocationCounter::count();
      for (const auto& [axis, group] : groups) result.sent[axis] = group.bytes_sent() - before[axis];
    }
    auto final = tensors();
    result.planned[at] = engine.programs().plan.total_bytes;
    result.high_water[at] = engine.arena().high_water();
    result.classes[at] = engine.programs().plan.class_bytes;
    if (rank != 0) return;
    result.losses = losses;
    result.norms = norms;
    result.initial = std::move(initial);
    result.final = std::move(final);
  });
  return result;
}

inline double relative_norm(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / std::max(size, 1e-30));
}

// What every layout must show beside one rank.
inline void expect_same_training(const RunResult& run, const RunResult& one, const std::vector<std::string>& names,
                                 double loss_tolerance) {
  EXPECT_EQ(run.initial, one.initial);  // bitwise
  ASSERT_EQ(run.losses.size(), one.losses.size());
  for (std::size_t i = 0; i < run.losses.size(); ++i) {
    EXPECT_NEAR(run.losses[i], one.losses[i], loss_tolerance * one.losses[i]) << "step " << i;
    EXPECT_NEAR(run.norms[i], one.norms[i], 1e3 * loss_tolerance * one.norms[i]) << "step " << i;
  }
  for (std::size_t t = 0; t < one.final.size(); ++t) {
    const bool attention_bias = names[t].find("attn") != std::string::npos && names[t].ends_with("bias");
    EXPECT_LE(relative_norm(run.final[t], one.final[t]), attention_bias ? 5e-3 : 1e-4) << names[t];
  }
  EXPECT_EQ(run.high_water, run.planned);
  EXPECT_EQ(run.allocations, 0);
}

}  // namespace plimsoll::test
