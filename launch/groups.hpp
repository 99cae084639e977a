#pragma once
// The groups of a rank, made from the mesh in one place.

#include <functional>
#include <map>
#include <string>

#include "comm/group.hpp"
#include "parallel/mesh.hpp"

namespace plimsoll {

// By axis. Those of one rank communicate with nobody.
using Groups = std::map<std::string, Group, std::less<>>;

// Makes the group of `ranks` (world ranks, this one among them) with a channel of its own; collective over them.
using GroupMaker = std::function<Group(const std::string& axis, const std::vector<int>& ranks)>;

Groups make_groups(const Mesh& mesh, int rank, const GroupMaker& make);

}  // namespace plimsoll
