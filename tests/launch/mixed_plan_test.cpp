// Plans in half precision: bytes per parameter, dtypes of what is sent, and the independent checks of every mesh.

#include <gtest/gtest.h>

#include <set>

#include "optim/update.hpp"
#include "runtime/exec/collectives.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

ProgramOptions options_of(ModelFamily family, const Mesh& mesh, int zero, DType dtype) {
  ProgramOptions o = tiny_options(family);
  o.dtype = dtype;
  o.mesh = mesh;
  o.zero = zero;
  o.evaluate = true;
  o.micro_batches = 4;
  return o;
}

std::int64_t bytes_of(const MemoryPlan& plan, MemoryClass memory) {
  std::int64_t bytes = 0;
  for (const PersistentRegion& r : plan.persistent) bytes += r.memory == memory ? r.bytes : 0;
  return bytes;
}

// 2 + 4 + 12: what kernels read, the gradient, the master weight and both moments of AdamW.
TEST(MixedPlan, BytesPerParameterFollowTheStageOfZero) {
  struct Row {
    int zero;
    std::int64_t half, single;  // bytes · 4 per parameter, over 4 ranks
  };
  for (const Row& row :
       {Row{0, 4 * 18, 4 * 16}, Row{1, 4 * 6 + 12, 4 * 8 + 8}, Row{2, 4 * 2 + 16, 4 * 4 + 12}, Row{3, 18, 16}}) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      SCOPED_TRACE(fmt::format("zero {} in {}", row.zero, dtype_name(dtype)));
      Mesh mesh{.data = 4};
      if (row.zero > 0) mesh.shards = 4;
      const Programs p = build_programs(options_of(ModelFamily::Llama, mesh, row.zero, dtype));
      using enum MemoryClass;
      std::int64_t bytes = 0;
      for (const MemoryClass memory : {Parameters, Gradients, Optimizer}) bytes += bytes_of(p.plan, memory);
      EXPECT_EQ(4 * bytes, (dtype == DType::f32 ? row.single : row.half) * p.layout.elements);
    }
  }
  const StateBytes bytes = state_bytes(DType::bf16, {});
  EXPECT_EQ(bytes.weight + bytes.gradient + bytes.optimizer, 18);
}

TEST(MixedPlan, MasterWeightsBelongToTheOptimizer) {
  const Programs half = build_programs(options_of(ModelFamily::Gpt2, {}, 0, DType::bf16));
  EXPECT_EQ(half.weights(), kMasterWeights);
  EXPECT_EQ(half.dtype_of("parameters"), DType::bf16);
  EXPECT_EQ(half.dtype_of("gradients"), DType::f32);
  EXPECT_EQ(half.dtype_of(kMasterWeights), DType::f32);
  EXPECT_EQ(half.dtype_of("optimizer.first"), DType::f32);
  EXPECT_EQ(half.plan.region(kMasterWeights).memory, MemoryClass::Optimizer);
  const Programs single = build_programs(options_of(ModelFamily::Gpt2, {}, 0, DType::f32));
  EXPECT_EQ(single.weights(), "parameters");
  EXPECT_FALSE(single.graphs.front()->named.contains(kMasterWeights));
}

// Gradients of parameters are summed in f32; parameters and activations travel as they are. And every plan passes the
// independent checker.
TEST(MixedPlan, CollectivesHaveTheDtypeOfWhatTheySend) {
  std::set<std::string> gathered;
  for (const Mesh& mesh : {Mesh{.data = 2}, Mesh{.tensor = 2}, Mesh{.data = 2, .pipeline = 2},
                           Mesh{.data = 2, .pipeline = 2, .tensor = 2}}) {
    for (const int zero : {0, 1, 2, 3}) {
      Mesh sharded = mesh;
      if (zero > 0) sharded.shards = mesh.data;
      ProgramOptions o = options_of(ModelFamily::Llama, sharded, zero, DType::bf16);
      o.sequence_parallel = mesh.tensor > 1 && zero == 1;
      o.recompute.assign(2, {zero == 2 ? RecomputeMode::Full : RecomputeMode::None, {}});
      const Programs p = build_programs(o);
      SCOPED_TRACE(fmt::format("data {} pipeline {} tensor {} zero {}", mesh.data, mesh.pipeline, mesh.tensor, zero));
      EXPECT_EQ(check_memory(p.list(), p.plan), std::nullopt);
      for (const CollectiveCall& call : collectives(p.graph("train"))) {
        if (call.dtype == DType::f64) continue;  // losses and norms
        const bool update = call.section == Graph::Section::Update;
        const bool whole_gradients = call.axis == "data" || call.axis == "replica" || call.axis == "embedding";
        const bool sums = call.kind != CollectiveKind::AllGather;
        const bool gradient = whole_gradients || (call.axis == "shard" && sums) || call.label.starts_with("sum.");
        EXPECT_EQ(call.dtype, gradient ? DType::f32 : DType::bf16) << call.label;
        if (call.axis == "shard" && !sums) gathered.insert(update ? "updated" : "used");
      }
    }
  }
  EXPECT_EQ(gathered, (std::set<std::string>{"updated", "used"}));
}

}  // namespace
}  // namespace plimsoll
