#pragma once
// The messages of a pipeline's stage, derived from its graph and its schedule: what goes over the wires between stages,
// in the order of each stream. The sender's list of a stream must be the receiver's.

#include <string>
#include <vector>

#include "runtime/graph/graph.hpp"
#include "runtime/plan/schedule.hpp"

namespace plimsoll {

// Outputs go to the piece behind, gradients of inputs to the piece before.
enum class MessageKind : std::uint8_t { Output, Gradient };
constexpr std::string_view message_name(MessageKind kind) {
  return kind == MessageKind::Output ? "output" : "gradient";
}
// Of the pipeline, one for each direction, so that neither is held up by the other.
constexpr std::string_view message_axis(MessageKind kind) {
  return kind == MessageKind::Output ? "pipeline" : "pipeline_back";
}

struct StageMessage {
  MessageKind kind = MessageKind::Output;
  bool sends = false;
  int peer = 0;             // stage
  int piece = 0;            // of the model, that gets it
  int micro_batch = 0;      // -1: the one that is under way
  int part = 0, parts = 1;  // of the whole message (Graph::message_parts)
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  std::int64_t bytes() const { return elements * dtype_bytes(dtype); }
};
// "output of micro-batch 3 for piece 1", "part 2/4 of …"
std::string to_text(const StageMessage& message);

// Of one step, by the actions of the schedule; or of one micro-batch of a graph without backward (`trains` false),
// which goes through the chunks in turn. Sends and receives of one kind are in the order of their streams.
std::vector<StageMessage> stage_messages(const Graph& graph, const Schedule& schedule, int stage, bool trains);

// Of the output of a chunk, by part: the node of forward that makes the last of it.
std::vector<std::size_t> output_parts(const Graph& graph, int chunk);

}  // namespace plimsoll
