#include "runtime/plan/offset_windows.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "runtime/plan/replay.hpp"
#include "tests/runtime/plan/offset_instances.hpp"

namespace plimsoll {
namespace {

// A buffer of a layer: units of 512 bytes, from a node of its forward to one of its forward or its backward, or of its
// backward alone. Nodes count from the first of that part.
struct LayerBuffer {
  enum Part { Forward, Both, Backward } part;
  std::int64_t units;
  int first, last;
};
using Part = LayerBuffer::Part;

// A layer of a GPT split eight ways with sequence parallelism, as memory plans see it: gathered inputs and partial
// products in forward, again in backward, and what is kept between, not all of which ends in the order of its start.
constexpr int kForwardNodes = 13, kBackwardNodes = 24;
const std::vector<LayerBuffer> kLayer{
    {Part::Forward, 65536, 0, 1},     {Part::Both, 16, 0, 24},          {Part::Both, 16, 0, 24},
    {Part::Both, 65536, 0, 24},       {Part::Forward, 524288, 1, 1},    {Part::Both, 524288, 1, 23},
    {Part::Both, 196608, 2, 20},      {Part::Forward, 8450, 3, 3},      {Part::Both, 1024, 3, 20},
    {Part::Both, 65536, 3, 20},       {Part::Forward, 524288, 4, 5},    {Part::Forward, 538624, 5, 5},
    {Part::Forward, 65536, 5, 7},     {Part::Forward, 65536, 7, 8},     {Part::Both, 16, 7, 12},
    {Part::Both, 16, 7, 12},          {Part::Both, 65536, 7, 12},       {Part::Forward, 524288, 8, 8},
    {Part::Both, 524288, 8, 11},      {Part::Both, 262144, 9, 8},       {Part::Both, 262144, 9, 9},
    {Part::Forward, 524288, 10, 11},  {Part::Forward, 538624, 11, 11},  {Part::Forward, 65536, 11, 13},
    {Part::Backward, 65536, 4, 6},    {Part::Backward, 524288, 6, 6},   {Part::Backward, 524288, 6, 8},
    {Part::Backward, 262144, 7, 11},  {Part::Backward, 524288, 9, 11},  {Part::Backward, 538624, 10, 11},
    {Part::Backward, 65536, 10, 12},  {Part::Backward, 8192, 12, 12},   {Part::Backward, 65536, 15, 17},
    {Part::Backward, 524288, 17, 17}, {Part::Backward, 524288, 17, 19}, {Part::Backward, 65536, 18, 20},
    {Part::Backward, 16802, 20, 20},  {Part::Backward, 196608, 20, 23}, {Part::Backward, 524288, 21, 23},
    {Part::Backward, 538624, 22, 23}, {Part::Backward, 65536, 22, 24},  {Part::Backward, 8192, 24, 24}};

std::vector<Lifetime> split_step(int layers) {
  std::vector<Lifetime> lives;
  const auto add = [&](std::int64_t units, int first, int last) { lives.push_back({512 * units, first, last}); };
  const int head = layers * kForwardNodes;
  for (int layer = 0; layer < layers; ++layer) {
    const int forward = layer * kForwardNodes;
    const int backward = head + 4 + (layers - 1 - layer) * kBackwardNodes;
    for (const LayerBuffer& b : kLayer) {
      add(b.units, (b.part == Part::Backward ? backward : forward) + b.first,
          (b.part == Part::Forward ? forward : backward) + b.last);
    }
    // Gradients of two layers are sent at once.
    if (layer % 2 == 0) add(96256, backward + 27, backward + 27 + (layer > 0 ? 46 : 0));
  }
  // Logits, and what backward adds up until the end of the step.
  add(65536, head, head + 1);
  for (const std::int64_t units : {16, 16, 65536}) add(units, head, head + 5);
  add(524288, head + 1, head + 1);
  add(524288, head + 1, head + 2);
  add(4102, head + 2, head + 2);
  add(524288, head + 2, head + 4);
  add(538624, head + 4, head + 4);
  add(65536, head + 4, head + 5);
  add(8192, head + 5, head + 5);
  add(65536, head + 5, head + 5 + layers * kBackwardNodes);
  return lives;
}

std::string replayed(const std::vector<Lifetime>& lives, const offsets::Placement& placement) {
  std::vector<PlacedItem> items;
  for (std::size_t i = 0; i < lives.size(); ++i) {
    const Lifetime& l = lives[i];
    items.push_back({std::to_string(i), l.bytes, l.first, l.last, placement.offset[i] * 512});
  }
  return replay(items, placement.peak * 512).value_or("valid");
}

// Within a few nodes where orders of all buffers leave a gap.
TEST(OffsetWindows, StepsOfSplitLayersNeedNoPadding) {
  int orders_leave_a_gap = 0;
  for (const int layers : {2, 6, 16, 41, 84}) {
    const std::vector<Lifetime> lives = split_step(layers);
    const auto problem = offsets::make_problem(lives, 512);
    std::int64_t nodes = 20'000;
    const auto placement = offsets::search_windows(problem, problem.max_live, nodes);
    ASSERT_TRUE(placement.has_value()) << layers << " layers, nodes left " << nodes;
    EXPECT_EQ(placement->peak, problem.max_live) << layers;
    EXPECT_EQ(replayed(lives, *placement), "valid") << layers;
    const Offsets plan = assign_offsets(lives);
    EXPECT_TRUE(plan.optimal) << layers << ": " << plan.method;
    orders_leave_a_gap += assign_offsets(lives, {.max_nodes = 0}).optimal ? 0 : 1;
  }
  EXPECT_GE(orders_leave_a_gap, 3);
}

TEST(OffsetWindows, WhatIsFoundIsValidAndWithinTheCapacity) {
  int found = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    test::Dice dice(seed);
    const auto lives = test::guillotine(40, 64, 10 + seed % 40, dice);
    const auto problem = offsets::make_problem(lives, 512);
    const std::int64_t capacity = problem.max_live + dice.below(8);
    std::int64_t nodes = 20'000;
    const auto placement = offsets::search_windows(problem, capacity, nodes);
    EXPECT_LE(nodes, 20'000);
    if (!placement) continue;
    ++found;
    EXPECT_LE(placement->peak, capacity) << seed;
    EXPECT_EQ(replayed(lives, *placement), "valid") << seed;
  }
  EXPECT_GE(found, 100);
}

TEST(OffsetWindows, RefusesLessThanMaxLiveAndStopsWithoutNodes) {
  const auto problem = offsets::make_problem(split_step(6), 512);
  std::int64_t nodes = 20'000;
  EXPECT_FALSE(offsets::search_windows(problem, problem.max_live - 1, nodes).has_value());
  nodes = 0;
  EXPECT_FALSE(offsets::search_windows(problem, 2 * problem.max_live, nodes).has_value());
}

// What has its place keeps it, the rest finds those that place_in_order gives it, and a lower capacity ends it.
TEST(OffsetWindows, AnOrderIsCompleted) {
  const std::vector<Lifetime> lives = split_step(6);
  const auto problem = offsets::make_problem(lives, 512);
  const std::vector<int> order = offsets::portfolio_order(problem, 0).items;
  const auto whole = offsets::place_in_order(problem, order, offsets::Fit::First);
  offsets::Placement half{std::vector<std::int64_t>(lives.size()), 0};
  for (std::size_t k = 0; k < order.size() / 2; ++k) {
    const auto i = static_cast<std::size_t>(order[k]);
    half.offset[i] = whole.offset[i];
  }
  offsets::Placement lower = half;
  EXPECT_EQ(offsets::complete(problem, order, order.size() / 2, offsets::Fit::First, whole.peak, half), order.size());
  EXPECT_EQ(half.offset, whole.offset);
  EXPECT_EQ(half.peak, whole.peak);
  EXPECT_LT(offsets::complete(problem, order, order.size() / 2, offsets::Fit::First, whole.peak - 1, lower),
            order.size());
  EXPECT_EQ(lower.peak, whole.peak);  // of the first that is above
}

}  // namespace
}  // namespace plimsoll
