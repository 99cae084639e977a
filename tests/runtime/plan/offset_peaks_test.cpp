#include "runtime/plan/offset_peaks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
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

// A Llama of 405B split eight ways with ZeRO-3 on GPUs, two sequences of 8192 tokens: what a rank has in backward.
// Parameters of a layer are gathered and its gradients are sent while the next layers run, and attention has a
// workspace for the pairs of a sequence. So the peak of each layer is as high as that of the layer before, but for what
// that one kept and what is still being sent, and they share most of their buffers.
constexpr std::int64_t kHidden = 1048576, kSlice = kHidden / 8, kQkv = 147456, kGateUp = 851968;
constexpr std::int64_t kProduct = 1062912, kAttention = 4326912;  // with their workspaces
constexpr std::int64_t kParameters = 1556719, kMlpGradients = 2557952, kTable = 1026250;

constexpr int kGatheredForward = 14, kGatheredHead = 13, kGatheredBackward = 30;
const std::vector<LayerBuffer> kGathered{{Part::Both, kGateUp, 0, 36},
                                         {Part::Both, kSlice, 5, 25},
                                         {Part::Both, kQkv, 7, 18},
                                         {Part::Both, kSlice, 12, 12},
                                         {Part::Backward, kHidden, 0, 1},
                                         {Part::Backward, kHidden, 0, 5},
                                         {Part::Backward, kParameters, 1, 55},
                                         {Part::Backward, kGateUp / 2, 2, 6},
                                         {Part::Backward, kGateUp / 2, 3, 5},
                                         {Part::Backward, 2 * kParameters, 4, 58},
                                         {Part::Backward, kGateUp, 6, 11},
                                         {Part::Backward, kHidden, 7, 9},
                                         {Part::Backward, kSlice, 8, 12},
                                         {Part::Backward, kProduct, 8, 9},
                                         {Part::Backward, kSlice, 9, 10},
                                         {Part::Backward, kHidden, 10, 10},
                                         {Part::Backward, kHidden, 10, 11},
                                         {Part::Backward, kHidden, 14, 14},
                                         {Part::Backward, kHidden, 14, 17},
                                         {Part::Backward, kSlice, 15, 18},
                                         {Part::Backward, kSlice, 16, 18},
                                         {Part::Backward, kQkv, 18, 24},
                                         {Part::Backward, kAttention, 18, 18},
                                         {Part::Backward, kHidden, 20, 22},
                                         {Part::Backward, kSlice, 21, 25},
                                         {Part::Backward, kProduct, 21, 22},
                                         {Part::Backward, kSlice, 22, 23},
                                         {Part::Backward, kHidden, 23, 23},
                                         {Part::Backward, kHidden, 23, 24},
                                         {Part::Backward, kMlpGradients, 27, 56}};
// The last layer, of which backward comes first: nothing of it is made again.
const std::vector<LayerBuffer> kGatheredLast{{Part::Both, kGateUp, 0, 36},
                                             {Part::Both, kSlice, 5, 25},
                                             {Part::Both, kQkv, 7, 18},
                                             {Part::Both, kSlice, 9, 18},
                                             {Part::Both, kSlice, 12, 13},
                                             {Part::Both, kHidden, 13, 12},
                                             {Part::Backward, kMlpGradients, 1, 26},
                                             {Part::Backward, kHidden, 4, 5},
                                             {Part::Backward, kHidden, 4, 8},
                                             {Part::Backward, kParameters, 5, 55},
                                             {Part::Backward, kGateUp / 2, 6, 9},
                                             {Part::Backward, 2 * kParameters, 7, 58},
                                             {Part::Backward, kGateUp, 9, 12},
                                             {Part::Backward, kHidden, 10, 12},
                                             {Part::Backward, kSlice, 11, 13},
                                             {Part::Backward, kProduct, 11, 12},
                                             {Part::Backward, kHidden, 15, 15},
                                             {Part::Backward, kHidden, 15, 17},
                                             {Part::Backward, kSlice, 16, 18},
                                             {Part::Backward, kQkv, 18, 24},
                                             {Part::Backward, kAttention, 18, 18},
                                             {Part::Backward, kHidden, 20, 22},
                                             {Part::Backward, kSlice, 21, 25},
                                             {Part::Backward, kProduct, 21, 22},
                                             {Part::Backward, kSlice, 22, 23},
                                             {Part::Backward, kHidden, 23, 23},
                                             {Part::Backward, kHidden, 23, 24},
                                             {Part::Backward, kMlpGradients, 27, 56}};
// The logits with what is before and after them; nodes count from the first after forward.
const std::vector<LayerBuffer> kHead{
    {Part::Backward, kGateUp, 0, 22},    {Part::Backward, kGateUp / 2, 1, 21}, {Part::Backward, kSlice, 4, 12},
    {Part::Backward, kHidden, 5, 9},     {Part::Backward, kTable, 6, 12},      {Part::Backward, kParameters, 7, 38},
    {Part::Backward, 2 * kTable, 8, 41}, {Part::Backward, kHidden, 9, 11},     {Part::Backward, kSlice, 11, 12}};

std::vector<Lifetime> gathered_step(int layers) {
  std::vector<Lifetime> lives;
  const int head = layers * kGatheredForward;
  const int end = head + kGatheredHead + layers * kGatheredBackward;
  const auto add = [&](const std::vector<LayerBuffer>& buffers, int forward, int backward) {
    for (const LayerBuffer& b : buffers)
      lives.push_back(
          {512 * b.units, (b.part == Part::Both ? forward : backward) + b.first, std::min(end, backward + b.last)});
  };
  for (int layer = 0; layer < layers; ++layer) {
    const int backward = head + kGatheredHead + (layers - 1 - layer) * kGatheredBackward;
    add(layer == layers - 1 ? kGatheredLast : kGathered, layer * kGatheredForward, backward);
  }
  add(kHead, 0, head);
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

// Expects a placement without padding, within a few nodes and in plans. Returns whether an order of all buffers is one.
bool expect_no_padding(const std::vector<Lifetime>& lives, int layers) {
  SCOPED_TRACE(std::to_string(layers) + " layers");
  const auto problem = offsets::make_problem(lives, 512);
  std::int64_t nodes = 20'000;
  const auto placement = offsets::search_peaks(problem, problem.max_live, nodes);
  EXPECT_TRUE(placement.has_value()) << "nodes left " << nodes;
  if (placement) {
    EXPECT_EQ(placement->peak, problem.max_live);
    EXPECT_EQ(replayed(lives, *placement), "valid");
  }
  const Offsets plan = assign_offsets(lives);
  EXPECT_TRUE(plan.optimal) << plan.method;
  return assign_offsets(lives, {.max_nodes = 0}).optimal;
}

TEST(OffsetPeaks, StepsOfSplitLayersNeedNoPadding) {
  int orders_leave_a_gap = 0;
  for (const int layers : {2, 6, 16, 41, 84})
    orders_leave_a_gap += expect_no_padding(split_step(layers), layers) ? 0 : 1;
  EXPECT_GE(orders_leave_a_gap, 3);
}

// Where the peaks of several layers must be placed together, among thousands of buffers.
TEST(OffsetPeaks, StepsWithGathersInFlightNeedNoPadding) {
  for (const int layers : {2, 6, 16, 41, 84, 126})
    EXPECT_FALSE(expect_no_padding(gathered_step(layers), layers)) << layers;
}

TEST(OffsetPeaks, WhatIsFoundIsValidAndWithinTheCapacity) {
  int found = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    test::Dice dice(seed);
    const auto lives = test::guillotine(40, 64, 10 + seed % 40, dice);
    const auto problem = offsets::make_problem(lives, 512);
    const std::int64_t capacity = problem.max_live + dice.below(8);
    std::int64_t nodes = 20'000;
    const auto placement = offsets::search_peaks(problem, capacity, nodes);
    EXPECT_LE(nodes, 20'000);
    if (!placement) continue;
    ++found;
    EXPECT_LE(placement->peak, capacity) << seed;
    EXPECT_EQ(replayed(lives, *placement), "valid") << seed;
  }
  EXPECT_GE(found, 100);
}

TEST(OffsetPeaks, RefusesLessThanMaxLiveAndStopsWithoutNodes) {
  const auto problem = offsets::make_problem(split_step(6), 512);
  std::int64_t nodes = 20'000;
  EXPECT_FALSE(offsets::search_peaks(problem, problem.max_live - 1, nodes).has_value());
  nodes = 0;
  EXPECT_FALSE(offsets::search_peaks(problem, 2 * problem.max_live, nodes).has_value());
}

// What has its place keeps it, the rest finds those that place_in_order gives it, and a lower capacity ends it.
TEST(OffsetPeaks, AnOrderIsCompleted) {
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
