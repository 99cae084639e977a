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
  struct Along {  // coordinates from `first` on, `step` apart
    int first, count, step;
  };
  Along pipeline{here.pipeline, 1, 1}, data{here.data, 1, 1}, tensor{here.tensor, 1, 1};
  const int first_shard = here.data / mesh.shards * mesh.shards;
  const int first_copy = here.tensor / mesh.kv_copies * mesh.kv_copies;
  if (axis == "world" || axis == "pipeline" || axis == "pipeline_back") pipeline = {0, mesh.pipeline, 1};
  if (axis == "world" || axis == "data") data = {0, mesh.data, 1};
  if (axis == "world" || axis == "tensor") tensor = {0, mesh.tensor, 1};
  if (axis == "shard") data = {first_shard, std::min(mesh.shards, mesh.data - first_shard), 1};
  if (axis == "replica")
    data = {here.data - first_shard, (mesh.data + first_shard - here.data - 1) / mesh.shards + 1, mesh.shards};
  if (axis == "kv_copy") tensor = {first_copy, std::min(mesh.kv_copies, mesh.tensor - first_copy), 1};
  if (axis == "embedding" && mesh.pipeline > 1 && (here.pipeline == 0 || here.pipeline + 1 == mesh.pipeline))
    pipeline = {0, 2, mesh.pipeline - 1};
  require(std::find(kMeshAxes.begin(), kMeshAxes.end(), axis) != kMeshAxes.end(), ErrorKind::Internal,
          "the mesh has no axis '{}'", axis);
  std::vector<int> group;
  for (int p = 0; p < pipeline.count; ++p) {
    for (int d = 0; d < data.count; ++d) {
      for (int t = 0; t < tensor.count; ++t)
        group.push_back(rank_at(
            mesh, {data.first + d * data.step, pipeline.first + p * pipeline.step, tensor.first + t * tensor.step}));
    }
  }
  return group;
}

int axis_stride(const Mesh& mesh, std::string_view axis) {
  const std::vector<int> group = axis_group(mesh, 0, axis);
  return group.size() > 1 ? group[1] - group[0] : 1;
}

}  // namespace plimsoll
