#include "runtime/exec/collectives.hpp"

#include <algorithm>
#include <optional>

namespace plimsoll {
namespace {

// What the kernels of comm/collective_kernels.cpp call. `whole`: the slot that has the whole tensor.
struct Call {
  CollectiveKind kind;
  int whole;
};

std::optional<Call> call_of(const Node& node) {
  const bool forward = node.phase == Phase::Forward;
  if (node.op == op_id<AllReduce>) return Call{CollectiveKind::AllReduce, AllReduce::kX};
  if (node.op == op_id<CopyTo> && !forward) return Call{CollectiveKind::AllReduce, CopyTo::kX};
  if (node.op == op_id<ReduceFrom> && forward) return Call{CollectiveKind::AllReduce, ReduceFrom::kY};
  if (node.op == op_id<AllGather>)
    return Call{forward ? CollectiveKind::AllGather : CollectiveKind::ReduceScatter, AllGather::whole};
  if (node.op == op_id<GatherUnits>) return Call{CollectiveKind::AllGather, GatherUnits::kY};
  if (node.op == op_id<ReduceUnits>) return Call{CollectiveKind::ReduceScatter, ReduceUnits::kX};
  if (node.op == op_id<ReduceScatter>)
    return Call{forward ? CollectiveKind::ReduceScatter : CollectiveKind::AllGather, ReduceScatter::whole};
  return std::nullopt;
}

// Backward has nothing to move where nobody wants the gradient of x, or that of y is zero.
bool moves(const Node& node) {
  if (node.phase != Phase::InputGrad) return true;
  return node.grad[0] != kNoValue && node.grad[1] != kNoValue;
}

// The maxima of the rows of a chunk, then their sums and the logits of their targets.
void add_loss_calls(const Node& node, CollectiveCall call, std::vector<CollectiveCall>& calls) {
  const auto& attrs = std::get<op_id<CrossEntropy>>(node.attrs);
  const std::int64_t rows = node.specs[CrossEntropy::kX].rows(), chunk = attrs.rows_per_chunk(rows);
  call.axis = attrs.axis;
  call.ranks = attrs.ranks;
  call.dtype = DType::f64;
  for (std::int64_t first = 0; first < rows; first += chunk) {
    for (const std::int64_t values : {1, 2}) {
      call.elements = values * std::min(chunk, rows - first);
      calls.push_back(call);
    }
  }
}

// What ranks have of several tensors together; empty where they have equal parts of each.
RankCuts joined_cuts(const std::vector<JoinedPart>& parts, int ranks) {
  if (std::all_of(parts.begin(), parts.end(), [](const JoinedPart& part) { return part.cuts.empty(); })) return {};
  RankCuts cuts{0};
  for (int r = 0; r < ranks; ++r) {
    cuts.push_back(cuts.back());
    for (const JoinedPart& part : parts) cuts.back() += range_of_rank(part.elements, r, ranks, part.cuts).count;
  }
  return cuts;
}

// Of a sum of some ranges alone; none: all of it.
void take_ranges(const std::vector<ElementRange>& ranges, CollectiveCall& call) {
  if (ranges.empty()) return;
  std::vector<JoinedPart> parts;
  call.elements = 0;
  for (const ElementRange& range : ranges) {
    // As Group::all_reduce divides them.
    RankCuts cuts{0};
    for (int r = 0; r < call.ranks; ++r) cuts.push_back(cuts.back() + range_of_rank(range.count, r, call.ranks).count);
    parts.push_back({range.count, std::move(cuts)});
    call.elements += range.count;
  }
  call.cuts = joined_cuts(parts, call.ranks);
}

}  // namespace

std::vector<CollectiveCall> collectives(const Graph& graph) {
  std::vector<CollectiveCall> calls;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    CollectiveCall call;
    call.label = node.layer >= 0 ? fmt::format("{} (layer {})", node.label, node.layer) : node.label;
    call.section = graph.section(n);
    call.when = node.when;
    call.node = n;
    if (node.op == op_id<CrossEntropy> && std::get<op_id<CrossEntropy>>(node.attrs).ranks > 1) {
      add_loss_calls(node, call, calls);
      continue;
    }
    const std::optional<Call> what = call_of(node);
    if (!what || !moves(node)) continue;
    const TensorSpec& whole = node.specs[what->whole];
    call.kind = what->kind;
    call.elements = whole.elements();
    call.dtype = whole.dtype;
    std::visit(
        [&](const auto& attrs) {
          if constexpr (requires { attrs.axis; }) {
            call.axis = attrs.axis;
            call.ranks = attrs.ranks;
          }
          if constexpr (requires { attrs.cuts; }) call.cuts = attrs.cuts;
          if constexpr (requires { attrs.parts; }) call.cuts = joined_cuts(attrs.parts, attrs.ranks);
          if constexpr (requires { attrs.ranges; }) take_ranges(attrs.ranges, call);
        },
        node.attrs);
    if (call.ranks > 1) calls.push_back(std::move(call));
  }
  return calls;
}

}  // namespace plimsoll
