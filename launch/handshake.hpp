#pragma once
// Before step 0 all ranks compare what must be the same. A rank that differs would otherwise hang the others, or train
// another model with them.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "launch/config.hpp"
#include "launch/programs.hpp"
#include "runtime/exec/messages.hpp"

namespace plimsoll {

class Group;

// What ranks of one role must have alike: (name, value) in an order that is the same on them.
struct Agreement {
  std::string subject;  // "the configuration"
  std::string role;     // compared with the ranks of the same role only; empty: with all
  std::vector<std::pair<std::string, std::string>> items;
};

// Collective. Error(RanksDisagree), with the same text on every rank: the ranks that differ from the majority of their
// role, and the first item in which the first of them does, with both values. Hashes are compared first; texts travel
// only when those differ.
void agree_on(const Group& control, const Agreement& mine);

Agreement build_agreement();
Agreement config_agreement(const Config& config);
// Mesh, micro-batch, shares of the replicas and of the state, ZeRO, sequence parallelism, bucket, dtype and programs
// are the same on all ranks.
Agreement plan_agreement(const Programs& programs, const ProgramOptions& options);
// Bytes of the plan: those of ranks of one pipeline stage with the same number of threads (kernels' workspaces depend
// on it), in a pipeline of the same number of micro-batches, and with uneven state of the same place on the shard axis.
Agreement memory_agreement(const Programs& programs, const ProgramOptions& options);
// The collectives of all programs over `axis`, of the ranks of this one's group: op, bytes, dtype, label.
Agreement order_agreement(const Programs& programs, const ProgramOptions& options, std::string_view axis);

// Messages between the stages of a pipeline go along links, from a stage to the next one and from the last to the
// first. The messages of kind `kind` over links of colour `colour`, as this rank sends or receives them: no rank has
// two links of one colour, and what is compared is the sender's list with the receiver's.
inline constexpr int kLinkColours = 3;
Agreement message_agreement(const Programs& programs, const ProgramOptions& options, MessageKind kind, int colour);

// build and command: first of all, since programs that do different things would not meet again.
void agree(const Group& control, const Agreement& command);
// configuration: before anything is made from it.
void agree(const Group& control, const Config& config);
// plan, memory, the order of collectives over every axis, and of messages between stages: before step 0.
void agree(const Group& control, const Programs& programs, const ProgramOptions& options);

}  // namespace plimsoll
