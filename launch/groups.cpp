#include "launch/groups.hpp"

namespace plimsoll {

Groups make_groups(const Mesh& mesh, int rank, const GroupMaker& make) {
  Groups groups;
  for (const std::string_view name : kMeshAxes) {
    const std::string axis(name);
    const std::vector<int> ranks = axis_group(mesh, rank, axis);
    groups.emplace(axis, ranks.size() == 1 ? Group(axis, make_self_transport()) : make(axis, ranks));
  }
  return groups;
}

}  // namespace plimsoll
