#include "parallel/overlap.hpp"

#include <map>

#include "runtime/graph/row_chunks.hpp"

namespace plimsoll {
namespace {

// A collective of the axis "tensor" that moves data in the phase of its node.
struct Collective {
  bool sums;     // else it gathers
  bool by_rank;  // runs along the tokens: a chunk must be of whole sequences
  ValueId from, to;
};

std::optional<Collective> collective_at(const Node& node) {
  const bool forward = node.phase == Phase::Forward;
  if (!forward && node.phase != Phase::InputGrad) return std::nullopt;
  const bool along = node.op == op_id<AllGather> || node.op == op_id<ReduceScatter>;
  const bool all = node.op == op_id<CopyTo> || node.op == op_id<ReduceFrom>;
  if (!along && !all) return std::nullopt;
  const bool sums = node.op == op_id<ReduceFrom> || node.op == op_id<ReduceScatter> ? forward : !forward;
  if (all && !sums) return std::nullopt;
  const std::string& axis = along ? (node.op == op_id<AllGather> ? std::get<op_id<AllGather>>(node.attrs).axis
                                                                 : std::get<op_id<ReduceScatter>>(node.attrs).axis)
                                  : (node.op == op_id<CopyTo> ? std::get<op_id<CopyTo>>(node.attrs).axis
                                                              : std::get<op_id<ReduceFrom>>(node.attrs).axis);
  if (axis != "tensor") return std::nullopt;
  const Collective c{sums, along, forward ? node.value[0] : node.grad[1], forward ? node.value[1] : node.grad[0]};
  if (c.from == kNoValue || c.to == kNoValue) return std::nullopt;  // nothing to move
  return c;
}

// A linear and the collective behind it, or before it.
struct Pair {
  std::size_t product, collective;
  Collective what;
};

// Its x and y. What linears in fp8 read is quantised as a whole, and their weights once per product: they are not cut.
struct ProductSlots {
  std::size_t x, y;
};
std::optional<ProductSlots> product_slots(const Node& node, bool cut) {
  if (node.op == op_id<Linear>) return ProductSlots{Linear::kX, Linear::kY};
  if (node.op == op_id<LinearFp8> && !cut) return ProductSlots{LinearFp8::kX, LinearFp8::kY};
  return std::nullopt;
}

bool touches(const Graph& graph, const Node& node, ValueId root) {
  bool any = false;
  for_each_access(graph, node, [&](const MemoryAccess& a) { any = any || graph.root(a.value) == root; });
  return any;
}

// The linear that makes what the collective at `n` sums, or that first reads what it gathers.
std::optional<std::size_t> product_of(const Graph& graph, std::size_t n, const Collective& c, bool cut) {
  const Node& node = graph.nodes[n];
  const ValueId root = graph.root(c.sums ? c.from : c.to), other = graph.root(c.sums ? c.to : c.from);
  for (std::size_t at = n; c.sums ? at-- > 0 : ++at < graph.nodes.size();) {
    const Node& near = graph.nodes[at];
    const bool here = graph.section(at) == graph.section(n) && near.chunk == node.chunk && near.late == node.late;
    if (!here) return std::nullopt;
    if (const auto slots = product_slots(near, cut); slots && near.phase == node.phase) {
      const ValueId forward = near.value[c.sums ? slots->y : slots->x],
                    backward = near.grad[c.sums ? slots->x : slots->y];
      if ((node.phase == Phase::Forward ? forward : backward) == (c.sums ? c.from : c.to)) return at;
    }
    if (touches(graph, near, root) || touches(graph, near, other)) return std::nullopt;
  }
  return std::nullopt;
}

std::vector<Pair> pairs_of(const Graph& graph, bool cut) {
  std::vector<Pair> pairs;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const std::optional<Collective> c = collective_at(graph.nodes[n]);
    const std::optional<std::size_t> product = c ? product_of(graph, n, *c, cut) : std::nullopt;
    if (product) pairs.push_back({*product, n, *c});
  }
  return pairs;
}

class Overlapper {
 public:
  Overlapper(Graph& graph, int chunks) : graph_(graph), chunks_(chunks), rows_(graph, chunks) {
    last_access_.assign(graph.values.size(), 0);
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      for_each_access(graph, graph.nodes[n],
                      [&](const MemoryAccess& a) { last_access_[index(graph.root(a.value))] = n; });
    }
    for (const OutsideUse& use : outside_uses(graph)) last_access_[index(use.value)] = graph.nodes.size();
  }

  void run() {
    std::map<std::size_t, Pair> at;  // by product: what lies between the two touches nothing of the collective
    std::vector<bool> gone(graph_.nodes.size(), false);
    for (const Pair& pair : pairs_of(graph_, chunks_ > 1)) {
      if (chunks_ == 1 && !pair.what.sums) continue;
      at[pair.product] = pair;
      gone[pair.collective] = gone[pair.product] = true;
    }
    std::vector<Node> nodes;
    const std::size_t backward = graph_.backward_begin, update = graph_.update_begin;
    std::swap(nodes, graph_.nodes);
    graph_.nodes.reserve(nodes.size());
    for (std::size_t n = 0; n <= nodes.size(); ++n) {
      if (n == backward) graph_.backward_begin = graph_.nodes.size();
      if (n == update) graph_.update_begin = graph_.nodes.size();
      if (n == nodes.size()) break;
      if (const auto pair = at.find(n); pair != at.end())
        put(nodes[pair->second.product], nodes[pair->second.collective], pair->second);
      else if (!gone[n])
        graph_.nodes.push_back(std::move(nodes[n]));
    }
  }

 private:
  static std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

  void put(const Node& product, const Node& collective, const Pair& pair) {
    if (chunks_ == 1) {
      graph_.nodes.push_back(product);
      graph_.nodes.push_back(collective);
      return;
    }
    lay_sum_over_product(collective, pair);
    const auto put_product = [&](int i) { graph_.nodes.push_back(rows_.chunk_of(product, pair.what.by_rank, i)); };
    const auto put_collective = [&](int i) {
      graph_.nodes.push_back(rows_.chunk_of(collective, pair.what.by_rank, i));
    };
    if (!pair.what.sums) put_collective(0);
    for (int i = 0; i < chunks_; ++i) {
      if (!pair.what.sums && i + 1 < chunks_) put_collective(i + 1);
      put_product(i);
      if (pair.what.sums) put_collective(i);
    }
  }

  // What share_forward_memory() does for whole values: the sum lies where the product was, unless that is still read.
  void lay_sum_over_product(const Node& collective, const Pair& pair) {
    if (collective.op != op_id<ReduceFrom>) return;
    const ValueId root = graph_.root(pair.what.from);
    Value& sum = graph_[pair.what.to];
    const bool free = last_access_[index(root)] == pair.collective && !graph_[root].persistent;
    if (!free || sum.persistent || sum.base != kNoValue || sum.spec != graph_[pair.what.from].spec) return;
    sum.base = pair.what.from;
    last_access_[index(root)] = last_access_[index(pair.what.to)];
  }

  Graph& graph_;
  int chunks_;
  RowChunks rows_;
  std::vector<std::size_t> last_access_;  // by root
};

}  // namespace

std::vector<SplitLinear> split_linears(const Graph& graph) {
  std::vector<SplitLinear> linears;
  for (const Pair& pair : pairs_of(graph, true)) linears.push_back({pair.product, pair.collective});
  return linears;
}

void overlap_linears(Graph& graph, int chunks) { Overlapper(graph, chunks).run(); }

std::optional<std::string> tensor_chunks_fault(std::int64_t micro_batch, std::int64_t sequence, bool sequence_parallel,
                                               std::int64_t chunks) {
  if (sequence_parallel && micro_batch % chunks != 0) {
    return fmt::format("{} chunks do not divide the {} sequence(s) of a micro-batch, as sequence parallelism needs",
                       chunks, micro_batch);
  }
  if (micro_batch * sequence % chunks != 0)
    return fmt::format("{} chunks do not divide the {} tokens of a micro-batch", chunks, micro_batch * sequence);
  return std::nullopt;
}

}  // namespace plimsoll
