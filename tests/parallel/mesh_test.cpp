#include "parallel/mesh.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

TEST(Mesh, CoordinatesAndRanksAreInverse) {
  const Mesh mesh{.data = 3, .pipeline = 2, .tensor = 4};
  ASSERT_EQ(mesh.ranks(), 24);
  for (int r = 0; r < mesh.ranks(); ++r) EXPECT_EQ(rank_at(mesh, coordinates(mesh, r)), r);
}

TEST(Mesh, TensorGroupsAreNeighbours) {
  const Mesh mesh{.data = 2, .pipeline = 2, .tensor = 2, .shards = 2};
  EXPECT_EQ(axis_group(mesh, 5, "tensor"), (std::vector<int>{4, 5}));
  EXPECT_EQ(axis_group(mesh, 5, "data"), (std::vector<int>{5, 7}));
  EXPECT_EQ(axis_group(mesh, 5, "pipeline"), (std::vector<int>{1, 5}));
  EXPECT_EQ(axis_group(mesh, 5, "world").size(), 8U);
  EXPECT_THROW(axis_group(mesh, 0, "depth"), Error);
}

TEST(Mesh, HybridShardingCutsTheDataAxis) {
  const Mesh mesh{.data = 4, .tensor = 2, .shards = 2};
  EXPECT_EQ(axis_group(mesh, 0, "shard"), (std::vector<int>{0, 2}));
  EXPECT_EQ(axis_group(mesh, 0, "replica"), (std::vector<int>{0, 4}));
  EXPECT_EQ(axis_group(mesh, 7, "shard"), (std::vector<int>{5, 7}));
}

// Every group of an axis is the same list on all of its members, and the groups partition the ranks.
TEST(Mesh, GroupsPartitionTheRanks) {
  const Mesh mesh{.data = 4, .pipeline = 3, .tensor = 2, .shards = 2};
  for (const std::string_view axis : kMeshAxes) {
    for (int r = 0; r < mesh.ranks(); ++r) {
      const std::vector<int> group = axis_group(mesh, r, axis);
      EXPECT_EQ(std::count(group.begin(), group.end(), r), 1) << axis;
      for (const int other : group) EXPECT_EQ(axis_group(mesh, other, axis), group) << axis;
    }
  }
}

}  // namespace
}  // namespace plimsoll
