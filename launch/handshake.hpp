#pragma once
#include "launch/config.hpp"
#include "launch/run_setup.hpp"

namespace plimsoll {

class Group;

// Before step 0 all ranks compare a hash of the binary and one of the resolved configuration. Error(RanksDisagree) on
// every rank lists the ranks that differ from the majority, their hosts' ranks and which item it was.
void agree(const Group& control, const Config& config, const Place& place);

}  // namespace plimsoll
