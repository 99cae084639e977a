#pragma once
// The ranks of a run as a mesh. Axes by name: "data", "pipeline", "tensor" ("context" and "expert" are reserved). The
// tensor axis runs fastest, so that its groups are neighbours on a node, then data, then pipeline. With hybrid sharding
// the data axis itself is [replica, shard], shard running faster.

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

struct Mesh {
  int data = 1, pipeline = 1, tensor = 1;
  int shards = 1;     // of the data axis: neighbours among which ZeRO divides; divides data
  int kv_copies = 1;  // of the tensor axis: neighbours that have the same key/value heads; divides tensor
  int ranks() const { return data * pipeline * tensor; }
  int longest_axis() const { return std::max({data, pipeline, tensor}); }  // no group is larger
  bool operator==(const Mesh&) const = default;
};

struct Coordinates {
  int data = 0, pipeline = 0, tensor = 0;
  bool operator==(const Coordinates&) const = default;
};
Coordinates coordinates(const Mesh& mesh, int rank);
int rank_at(const Mesh& mesh, const Coordinates& at);

// "pipeline_back": the pipeline again, for the messages that go against its direction. "embedding": its first and its
// last rank.
inline constexpr std::array<std::string_view, 9> kMeshAxes{
    "world", "data", "shard", "replica", "pipeline", "pipeline_back", "embedding", "tensor", "kv_copy"};
// The ranks of the group of `rank` along an axis, in the order of the axis. Error(Internal) for an unknown axis.
std::vector<int> axis_group(const Mesh& mesh, int rank, std::string_view axis);
// Ranks between neighbours of such a group; 1 where it has a single rank.
int axis_stride(const Mesh& mesh, std::string_view axis);

}  // namespace plimsoll
