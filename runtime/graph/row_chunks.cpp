#include "runtime/graph/row_chunks.hpp"

namespace plimsoll {

Node RowChunks::chunk_of(const Node& whole, bool of_sequences, int i) {
  Node node = whole;
  node.label += fmt::format(" {}/{}", i + 1, chunks_);
  const auto slots = op_info(node.op).slots;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    if (slots[s].role == Role::Param || slots[s].role == Role::State || !node.specs.has(static_cast<int>(s))) continue;
    node.specs.set(static_cast<int>(s), spec_of(whole.specs[static_cast<int>(s)], of_sequences));
    for (ValueId* v : {&node.value[s], &node.grad[s]}) {
      if (*v != kNoValue) *v = rows_of(*v, of_sequences, i);
    }
  }
  return node;
}

TensorSpec RowChunks::spec_of(TensorSpec spec, bool of_sequences) const {
  const std::int64_t rows = of_sequences ? spec.shape[0] : spec.rows();
  require(rows % chunks_ == 0, ErrorKind::Internal, "{} in {} chunks", to_string(spec), chunks_);
  if (of_sequences) {
    spec.shape[0] = rows / chunks_;
  } else {
    spec.shape = {rows / chunks_, spec.last()};
  }
  return spec;
}

ValueId RowChunks::rows_of(ValueId whole, bool of_sequences, int i) {
  ValueId& id = parts_.try_emplace({whole, of_sequences, i}, kNoValue).first->second;
  if (id != kNoValue) return id;
  Value part = graph_[whole];
  part.spec = spec_of(part.spec, of_sequences);
  part.name += fmt::format(".{}", i);
  if (!apart_.contains(whole)) {
    part.base = whole;
    part.byte_offset = i * part.spec.bytes();
  }
  return id = graph_.add_value(std::move(part));
}

}  // namespace plimsoll
