#include "runtime/exec/messages.hpp"

#include <fmt/format.h>

namespace plimsoll {
namespace {

void add_messages(const Graph& graph, const Schedule& schedule, int stage, const Action& action,
                  std::vector<StageMessage>& all) {
  const PieceEnds& ends = graph.pieces[static_cast<std::size_t>(action.chunk)];
  const bool forward = action.kind == ActionKind::Forward;
  const auto add = [&](const std::optional<PipelinePiece>& other, bool sends, ValueId value) {
    if (!other) return;
    const int mine = piece_index(schedule.stages, stage, action.chunk);
    const int piece = sends ? piece_index(schedule.stages, other->stage, other->chunk) : mine;
    const TensorSpec& spec = graph[value].spec;
    all.push_back({forward ? MessageKind::Output : MessageKind::Gradient, sends, other->stage, piece,
                   action.micro_batch, spec.elements(), spec.dtype});
  };
  add(receives_from(schedule, stage, action), false, forward ? ends.input : ends.output_grad);
  add(sends_to(schedule, stage, action), true, forward ? ends.output : ends.input_grad);
}

}  // namespace

std::string to_text(const StageMessage& m) {
  return fmt::format("{}{} for piece {}", message_name(m.kind),
                     m.micro_batch < 0 ? "" : fmt::format(" of micro-batch {}", m.micro_batch), m.piece);
}

std::vector<StageMessage> stage_messages(const Graph& graph, const Schedule& schedule, int stage, bool trains) {
  std::vector<StageMessage> all;
  if (trains) {
    for (const Action& action : schedule.actions[static_cast<std::size_t>(stage)])
      add_messages(graph, schedule, stage, action, all);
    return all;
  }
  for (int chunk = 0; chunk < schedule.chunks; ++chunk)
    add_messages(graph, schedule, stage, {ActionKind::Forward, chunk, -1, 0}, all);
  return all;
}

}  // namespace plimsoll
