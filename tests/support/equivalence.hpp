#pragma once
// The same training run on one rank and on a mesh, whose ranks are threads of the test or processes.

#include <gtest/gtest.h>

#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_mesh.hpp"

namespace plimsoll::test {

struct Layout {
  Mesh mesh;
  int zero = 0;
  bool sequence = false;
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  int chunks = 1;
  std::vector<std::int64_t> stages = {};  // layers of each piece; empty: cut by cost
  int tensor_chunks = 1;
  bool overlap = true;
  std::vector<std::int64_t> shares = {};  // micro-batches of each replica; empty: even
  bool hierarchical = false;              // over the shards of the mesh first
  int prefetch = 1;
  std::vector<std::int64_t> state_shares = {};  // by rank of the shard axis; empty: even
  std::int64_t gather_bytes = 0;
  int pipeline_chunks = 1;
};
std::string name_of(const Layout& layout);
// The schedules of a pipeline that cut so many layers, interleaved with two pieces on a stage.
std::vector<Layout> every_schedule(Layout layout, std::int64_t layers);

std::string family_name(ModelFamily family);
// A tiny model (tiny_run.hpp) that trains and evaluates.
ProgramOptions equivalence_options(ModelFamily family, DType dtype, std::int64_t micro_batch);
// Of sizes that do not divide nicely: 509 ids, GPT-2 with 4 heads, or Llama with 6 heads over 3 key/value heads,
// untied; a row at a time.
ProgramOptions uneven_options(ModelFamily family, DType dtype, std::int64_t layers);
// A tiny model of four layers, GPT-2 with dropout, that trains and evaluates a row at a time: for what rewrites layers.
ProgramOptions four_layer_options(ModelFamily family);

struct RunResult {
  DType dtype = DType::f32;
  bool fp8 = false;
  std::vector<std::string> names;  // of the model's tensors
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> initial, final;  // those tensors
  std::vector<std::int64_t> planned, high_water;    // by rank
  std::vector<std::int64_t> host_planned, host_high_water;
  std::vector<ClassBytes> classes, seen_classes;  // planned, and seen while it ran
  std::map<std::string, std::int64_t> sent;       // of rank 0, by axis, by the steps alone
  std::int64_t allocations = 0;                   // by ops of all ranks of a process after the first step
};

// What rank `rank` sees of `steps` steps of `rows` rows, o.micro_batch rows at a time on each replica. `counts`: this
// rank counts the allocations of its process. `poison`: as ExecutorOptions has it. Collective.
RunResult train_rank(const Layout& layout, ProgramOptions o, int rank, const Groups& groups, std::int64_t rows,
                     std::int64_t steps, bool counts, bool poison = false, Backend* backend = nullptr,
                     Profile* profile = nullptr);
// The same with a thread for each rank: what rank 0 sees, and the memory of all.
// Each rank computes on what `backend` makes for it, and talks over its transports where it has some; without one, on
// the CPU.
RunResult train_on(const Layout& layout, const ProgramOptions& o, std::int64_t rows, std::int64_t steps,
                   bool poison = false, const std::function<Backend()>& backend = {});

// |a - b| / |b|
double relative_norm(const std::vector<double>& a, const std::vector<double>& b);

// What every layout must show beside one rank: initial weights bitwise equal, losses within 1e-5 (fp64: 1e-10),
// parameters within 1e-4 (attention biases 5e-3), the arenas as planned, no allocation. In half precision: losses
// within 5e-4, gradient norms within 5e-3 (beside fp8 3e-2), all parameters together within 1e-2.
void expect_same_training(const RunResult& run, const RunResult& one);
void expect_same_bits(const RunResult& run, const RunResult& other);

}  // namespace plimsoll::test
