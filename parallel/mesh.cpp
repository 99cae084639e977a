#include "parallel/mesh.hpp"

#include "runtime/core/error.hpp"

namespace plimsoll {

Coordinates coordinates(const Mesh& mesh, int rank) {
  return {rank / mesh.tensor % mesh.data, rank / (mesh.tensor * mesh.data), rank % mesh.tensor};
}

int rank_at(const Mesh& mesh, const Coordinates& at) {
  return (at.pipeline * mesh.data + at.data) * mesh.tensor + at.tensor;
}

std::vector<int> axis_group(const Mesh& mesh, int rank, std::string_view axis) {
  const Coordinates here = coordinates(mesh, rank);
  const auto same_but = [&](const Coordinates& c) {
    const bool data = c.data == here.data, pipeline = c.pipeline == here.pipeline, tensor = c.tensor == here.tensor;
    if (axis == "world") return true;
    if (axis == "data") return pipeline && tensor;
    if (axis == "shard") return pipeline && tensor && c.data / mesh.shards == here.data / mesh.shards;
    if (axis == "replica") return pipeline && tensor && c.data % mesh.shards == here.data % mesh.shards;
    if (axis == "pipeline" || axis == "pipeline_back") return data && tensor;
    const auto at_end = [&](int stage) { return stage == 0 || stage + 1 == mesh.pipeline; };
    if (axis == "embedding") return data && tensor && (pipeline || (at_end(c.pipeline) && at_end(here.pipeline)));
    if (axis == "kv_copy") return data && pipeline && c.tensor / mesh.kv_copies == here.tensor / mesh.kv_copies;
    require(axis == "tensor", ErrorKind::Internal, "the mesh has no axis '{}'", axis);
    return data && pipeline;
  };
  std::vector<int> group;
  for (int r = 0; r < mesh.ranks(); ++r) {
    if (same_but(coordinates(mesh, r))) group.push_back(r);
  }
  return group;
}

int axis_stride(const Mesh& mesh, std::string_view axis) {
  const std::vector<int> group = axis_group(mesh, 0, axis);
  return group.size() > 1 ? group[1] - group[0] : 1;
}

}  // namespace plimsoll
