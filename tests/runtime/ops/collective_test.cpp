// What the collectives declare where the parts of ranks differ.

#include "runtime/ops/collective.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

const RankCuts kCuts{0, 6, 6, 16};

SlotSpecs with_x(Shape shape) {
  SlotSpecs s;
  s.set(0, {shape, DType::f32});
  return s;
}

TEST(UnevenParts, HaveTheSizesOfTheCuts) {
  for (const auto& [rank, part] : {std::pair{0, 6}, {1, 0}, {2, 10}}) {
    const DimAttrs attrs{"shard", 3, 0, kCuts, rank};
    SlotSpecs gathered = with_x({part}), scattered = with_x({16});
    AllGather::infer(attrs, gathered);
    EXPECT_EQ(gathered[AllGather::kY], (TensorSpec{{16}, DType::f32}));
    ReduceScatter::infer(attrs, scattered);
    EXPECT_EQ(scattered[ReduceScatter::kY], (TensorSpec{{part}, DType::f32}));
    EXPECT_EQ(AllGather::workspace_bytes(attrs, gathered, Phase::Forward, 1), 0);
    EXPECT_EQ(ReduceScatter::workspace_bytes(attrs, scattered, Phase::Forward, 1), 2 * part * 4)
        << "what two others send of this rank's part";
  }
}

TEST(UnevenParts, OthersAreRefused) {
  const auto refused = [](const DimAttrs& attrs, SlotSpecs x) {
    EXPECT_THROW(AllGather::infer(attrs, x), Error);
    EXPECT_THROW(ReduceScatter::infer(attrs, x), Error);
  };
  refused({"shard", 3, 0, kCuts, 0}, with_x({7}));
  refused({"shard", 3, 1, kCuts, 0}, with_x({2, 6}));
  refused({"shard", 2, 0, kCuts, 0}, with_x({6}));
  refused({"shard", 3, 0, {0, 8, 6, 16}, 0}, with_x({8}));
  refused({"shard", 3, 0, {1, 6, 6, 16}, 0}, with_x({5}));
  refused({"shard", 3, 0, kCuts, 3}, with_x({6}));
}

}  // namespace
}  // namespace plimsoll
