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
    const int parts = forward ? graph.message_parts : 1;
    for (int part = 0; part < parts; ++part) {
      all.push_back({forward ? MessageKind::Output : MessageKind::Gradient, sends, other->stage, piece,
                     action.micro_batch, part, parts, spec.elements() / parts, spec.dtype});
    }
  };
  add(receives_from(schedule, stage, action), false, forward ? ends.input : ends.output_grad);
  add(sends_to(schedule, stage, action), true, forward ? ends.output : ends.input_grad);
}

}  // namespace

std::string to_text(const StageMessage& m) {
  return fmt::format("{}{}{} for piece {}", m.parts > 1 ? fmt::format("part {}/{} of ", m.part + 1, m.parts) : "",
                     message_name(m.kind), m.micro_batch < 0 ? "" : fmt::format(" of micro-batch {}", m.micro_batch),
                     m.piece);
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

std::vector<std::size_t> output_parts(const Graph& graph, int chunk) {
  const ValueId output = graph.pieces[static_cast<std::size_t>(chunk)].output;
  const ValueId root = graph.root(output);
  const std::int64_t begin = graph.offset_in_root(output), part = graph[output].spec.bytes() / graph.message_parts;
  std::vector<std::size_t> made(static_cast<std::size_t>(graph.message_parts), 0);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (graph.section(n) != Graph::Section::Forward || graph.nodes[n].chunk != chunk) continue;
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (!a.writes || graph.root(a.value) != root) return;
      const std::int64_t first = graph.offset_in_root(a.value) - begin, end = first + graph[a.value].spec.bytes();
      for (std::size_t i = 0; i < made.size(); ++i) {
        const std::int64_t from = static_cast<std::int64_t>(i) * part;
        if (first < from + part && from < end) made[i] = n;
      }
    });
  }
  return made;
}

}  // namespace plimsoll
