#include "parallel/tensor.hpp"

#include <algorithm>
#include <map>
#include <numeric>

#include "parallel/nodes.hpp"

namespace plimsoll {
namespace {

// Rows or columns [begin, begin + count) of a parameter. `owned`: this rank answers for them.
struct Range {
  std::int64_t begin, count;
  bool owned = true;
};

// What splits a linear: its outputs (its inputs are whole), or its inputs (its outputs are partial sums).
enum class Split : std::uint8_t { Outputs, Inputs };
struct SplitLinear {
  std::string_view label;
  Split split;
};
constexpr SplitLinear kSplitLinears[] = {
    {"attention.qkv", Split::Outputs}, {"attention.output", Split::Inputs},
    {"mlp.up", Split::Outputs},        {"mlp.gate_up", Split::Outputs},
    {"mlp.down", Split::Inputs},       {"head", Split::Outputs}};  // of logits: each rank those of its ids

class TensorSplitter {
 public:
  TensorSplitter(const Graph& whole, const ModelConfig& model, const TensorParallel& t)
      : whole_(whole), m_(model), t_(t) {}

  Graph run() {
    for (const auto& [name, value] : whole_.named) {
      if (name == "tokens" || name == "targets") g_.named[name] = map_[value] = g_.add_value(whole_[value]);
    }
    for (const Parameter& p : whole_.parameters) add_parameter(p);  // in model order
    for (const PieceEnds& piece : whole_.pieces) add_piece_input(piece.input);
    for (const Node& node : whole_.nodes) {
      const std::size_t begin = g_.nodes.size();
      add(node);
      for (std::size_t n = begin; n < g_.nodes.size(); ++n) g_.nodes[n].chunk = node.chunk;
    }
    for (const auto& [name, value] : whole_.named) g_.named[name] = map_.at(value);
    for (const PieceEnds& piece : whole_.pieces) {
      const auto mine = [&](ValueId v) { return v == kNoValue ? kNoValue : map_.at(v); };
      g_.pieces.push_back({mine(piece.input), mine(piece.output)});
    }
    return std::move(g_);
  }

 private:
  // Between the linears: of the whole tokens or of this rank's.
  void add_piece_input(ValueId input) {
    if (input == kNoValue) return;
    Value v = whole_[input];
    if (t_.sequence) v.spec.shape[1] /= t_.ranks;
    map_[input] = g_.add_value(std::move(v));
  }

  std::int64_t share(std::int64_t n) const { return n / t_.ranks; }
  std::int64_t vocabulary_rows() const { return (m_.vocabulary + t_.ranks - 1) / t_.ranks; }
  Range vocabulary() const {
    const std::int64_t first = std::min(m_.vocabulary, t_.rank * vocabulary_rows());
    return {first, std::min(m_.vocabulary - first, vocabulary_rows())};
  }
  HeadLayout local_heads() const {
    return {static_cast<int>(m_.heads / t_.ranks), static_cast<int>(std::max<std::int64_t>(1, m_.kv_heads / t_.ranks)),
            static_cast<int>(m_.head_dim)};
  }

  // The parts of the outputs of a split linear, in the order in which they are packed.
  std::vector<Range> outputs_of(std::string_view label) const {
    if (label == "attention.qkv") {
      const HeadLayout l = local_heads();
      const std::int64_t q = m_.query_size(), kv = m_.kv_size(), copies = t_.kv_copies(m_);
      const std::int64_t mine = l.kv_heads * m_.head_dim, first = t_.rank / copies * mine;
      const bool owned = t_.rank % copies == 0;
      return {{t_.rank * share(q), share(q)}, {q + first, mine, owned}, {q + kv + first, mine, owned}};
    }
    const std::int64_t ffn = m_.ffn, mine = share(ffn);
    if (label == "mlp.gate_up") return {{t_.rank * mine, mine}, {ffn + t_.rank * mine, mine}};
    return {{t_.rank * mine, mine}};
  }

  static const SplitLinear* split_linear(std::string_view label) {
    for (const SplitLinear& s : kSplitLinears) {
      if (label == s.label) return &s;
    }
    return nullptr;
  }

  // The ranges of a dim (0 or 1) of a parameter that this rank has, one after another; `extent`: its size, with
  // padding.
  Parameter part_of(const Parameter& whole, int dim, const std::vector<Range>& ranges) const {
    Parameter mine = whole;
    mine.parts.clear();
    std::int64_t at = 0;
    for (const Range& range : ranges) {
      for (const ParameterPart& part : whole.parts) {
        const std::int64_t begin = dim == 0 ? part.at_row : part.at_column, size = dim == 0 ? part.rows : part.columns;
        const std::int64_t from = std::max(begin, range.begin), to = std::min(begin + size, range.begin + range.count);
        if (from >= to) continue;
        ParameterPart p = part;
        (dim == 0 ? p.row : p.column) += from - begin;
        (dim == 0 ? p.rows : p.columns) = to - from;
        (dim == 0 ? p.at_row : p.at_column) = at + (from - range.begin);
        p.owned = part.owned && range.owned;
        mine.parts.push_back(std::move(p));
      }
      at += range.count;
    }
    return mine;
  }

  // Names the use of a parameter decides by: its value is "<layer>.<label>.weight" or the like.
  void add_parameter(const Parameter& whole) {
    Value value = whole_[whole.value];
    std::string name = value.name;
    if (value.layer >= 0) name = name.substr(name.find('.') + 1);
    const bool is_weight = name.ends_with(".weight"), is_bias = name.ends_with(".bias");
    const SplitLinear* linear = split_linear(name.substr(0, name.rfind('.')));
    Parameter mine = whole;
    const auto resize = [&](int dim, std::int64_t extent) { value.spec.shape[dim] = extent; };
    const auto total = [](const std::vector<Range>& ranges) {
      return std::accumulate(ranges.begin(), ranges.end(), std::int64_t{0},
                             [](std::int64_t n, const Range& r) { return n + r.count; });
    };
    const bool in_out = m_.family == ModelFamily::Gpt2;
    if (name == "embedding" || name == "head") {
      mine = part_of(whole, 0, {vocabulary()});
      resize(0, vocabulary_rows());
    } else if (linear != nullptr && linear->split == Split::Outputs && (is_weight || is_bias)) {
      const int dim = is_weight && in_out ? 1 : 0;
      const std::vector<Range> ranges = outputs_of(linear->label);
      mine = part_of(whole, dim, ranges);
      resize(dim, total(ranges));
    } else if (linear != nullptr && is_weight) {
      const int dim = in_out ? 0 : 1;
      const std::int64_t n = share(whole_[whole.value].spec.shape[dim]);
      mine = part_of(whole, dim, {{t_.rank * n, n}});
      resize(dim, n);
    } else {
      for (ParameterPart& part : mine.parts) part.owned = part.owned && t_.rank == 0;
    }
    mine.value = map_[whole.value] = g_.add_value(std::move(value));
    g_.parameters.push_back(std::move(mine));
  }

  ValueId in(const Node& node, int slot) const {
    const ValueId v = node.value[static_cast<std::size_t>(slot)];
    return v == kNoValue ? kNoValue : map_.at(v);
  }
  void out(const Node& node, int slot, ValueId value) { map_[node.value[static_cast<std::size_t>(slot)]] = value; }

  // Into the region of a layer whose ranks work on parts, and out of it.
  ValueId enter(ValueId x, const Node& node) {
    const std::string label = node.label + ".enter";
    if (t_.sequence)
      return add_node<AllGather>(g_, {"tensor", t_.ranks, 1}, {{AllGather::kX, x}}, label, node.layer)[AllGather::kY];
    return add_node<CopyTo>(g_, {"tensor", t_.ranks}, {{CopyTo::kX, x}}, label, node.layer)[CopyTo::kY];
  }
  ValueId leave(ValueId x, const Node& node) {
    const std::string label = node.label + ".leave";
    if (t_.sequence) {
      return add_node<ReduceScatter>(g_, {"tensor", t_.ranks, 1}, {{ReduceScatter::kX, x}}, label,
                                     node.layer)[ReduceScatter::kY];
    }
    return add_node<ReduceFrom>(g_, {"tensor", t_.ranks}, {{ReduceFrom::kX, x}}, label, node.layer)[ReduceFrom::kY];
  }
  ValueId add_rows(ValueId x, ValueId table, bool positions, const Node& node) {
    const std::int64_t first = positions && t_.sequence ? t_.rank * g_[x].spec.shape[1] : 0;
    return add_node<AddRows>(g_, {positions, first}, {{AddRows::kX, x}, {AddRows::kTable, table}},
                             node.label + (positions ? ".positions" : ".bias"), node.layer)[AddRows::kY];
  }

  void add(const Node& node) {
    if (node.op == op_id<Embedding>) return add_embedding(node);
    if (node.op == op_id<Linear>) return add_linear(node);
    if (node.op == op_id<QuantizeFp8>) return add_quantize(node);
    if (node.op == op_id<LinearFp8>) return add_fp8_linear(node);
    if (node.op == op_id<CrossEntropy>) return add_loss(node);
    Attrs attrs = node.attrs;
    if (auto* a = std::get_if<op_id<Attention>>(&attrs)) {
      a->all_heads = a->layout.heads;
      a->layout = local_heads();
      a->first_head = t_.rank * a->layout.heads;
    } else if (auto* r = std::get_if<op_id<Rope>>(&attrs)) {
      r->layout = local_heads();
    } else if (auto* n = std::get_if<op_id<HeadNorm>>(&attrs)) {
      n->heads = local_heads().heads;
      n->kv_heads = local_heads().kv_heads;
    } else if (auto* d = std::get_if<op_id<Dropout>>(&attrs); d != nullptr && t_.sequence) {
      const std::int64_t columns = g_[in(node, Dropout::kX)].spec.shape[1];
      d->first_column = t_.rank * columns;
      d->columns = t_.ranks * columns;
    }
    copy(node, std::move(attrs));
  }

  void copy(const Node& node, Attrs attrs) {
    const auto slots = op_info(node.op).slots;
    Node mine;
    mine.op = node.op;
    mine.attrs = std::move(attrs);
    mine.label = node.label;
    mine.layer = node.layer;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      const bool made = slots[s].role == Role::Output || slots[s].role == Role::Stat;
      if (made || node.value[s] == kNoValue) continue;
      mine.value[s] = map_.at(node.value[s]);
      mine.specs.set(static_cast<int>(s), g_[mine.value[s]].spec);
    }
    op_info(node.op).infer(mine.attrs, mine.specs);
    for (std::size_t s = 0; s < slots.size(); ++s) {
      if (node.value[s] == kNoValue || mine.value[s] != kNoValue) continue;
      Value v = whole_[node.value[s]];
      v.spec = mine.specs[static_cast<int>(s)];
      mine.value[s] = map_[node.value[s]] = g_.add_value(std::move(v));
    }
    g_.nodes.push_back(std::move(mine));
  }

  void add_embedding(const Node& node) {
    const ValueId part = add_node<Embedding>(
        g_, {true, vocabulary().begin},
        {{Embedding::kTokens, in(node, Embedding::kTokens)}, {Embedding::kWeight, in(node, Embedding::kWeight)}},
        node.label, node.layer)[Embedding::kY];
    ValueId x = leave(part, node);
    if (const ValueId positions = in(node, Embedding::kPositions); positions != kNoValue)
      x = add_rows(x, positions, true, node);
    out(node, Embedding::kY, x);
  }

  static const SplitLinear& split_of(const Node& node, std::string_view label) {
    const SplitLinear* linear = split_linear(label);
    require(linear != nullptr, ErrorKind::Internal, "tensor parallelism does not know the linear '{}'", node.label);
    return *linear;
  }

  // x of a linear whose outputs are split: entered once, however many linears read it.
  ValueId entered(ValueId x, const Node& node) {
    if (!entered_.contains(x)) entered_[x] = enter(x, node);
    return entered_.at(x);
  }

  // The copy is one of what its linear reads. It comes first, so that it enters.
  void add_quantize(const Node& node) {
    const std::string_view label = std::string_view(node.label).substr(0, node.label.rfind('.'));
    const ValueId whole_x = node.value[QuantizeFp8::kX], scaling = node.value[QuantizeFp8::kScaling];
    const ValueId x = in(node, QuantizeFp8::kX);
    const bool enters = split_of(node, label).split == Split::Outputs;
    map_[scaling] = g_.add_value(whole_[scaling]);
    if (enters) {
      Node linear = node;
      linear.label = label;
      map_[whole_x] = entered(x, linear);
    }
    copy(node, node.attrs);
    map_[whole_x] = x;
  }

  void add_fp8_linear(const Node& node) {
    const auto attrs = std::get<op_id<LinearFp8>>(node.attrs);
    const ValueId x = in(node, LinearFp8::kX), bias = in(node, LinearFp8::kBias);
    const auto linear = [&](ValueId from, ValueId adds) {
      return add_node<LinearFp8>(g_, attrs,
                                 {{LinearFp8::kX, from},
                                  {LinearFp8::kX8, in(node, LinearFp8::kX8)},
                                  {LinearFp8::kWeight, in(node, LinearFp8::kWeight)},
                                  {LinearFp8::kBias, adds},
                                  {LinearFp8::kScaling, in(node, LinearFp8::kScaling)}},
                                 node.label, node.layer)[LinearFp8::kY];
    };
    if (split_of(node, node.label).split == Split::Outputs)
      return out(node, LinearFp8::kY, linear(entered(x, node), bias));
    const ValueId y = leave(linear(x, kNoValue), node);
    out(node, LinearFp8::kY, bias == kNoValue ? y : add_rows(y, bias, false, node));
  }

  void add_linear(const Node& node) {
    const auto attrs = std::get<op_id<Linear>>(node.attrs);
    const ValueId x = in(node, Linear::kX), weight = in(node, Linear::kWeight), bias = in(node, Linear::kBias);
    if (split_of(node, node.label).split == Split::Outputs) {
      const SlotValues y = add_node<Linear>(
          g_, attrs, {{Linear::kX, entered(x, node)}, {Linear::kWeight, weight}, {Linear::kBias, bias}}, node.label,
          node.layer);
      out(node, Linear::kY, y[Linear::kY]);
      if (node.value[Linear::kPre] != kNoValue) out(node, Linear::kPre, y[Linear::kPre]);
      return;
    }
    ValueId y =
        add_node<Linear>(g_, attrs, {{Linear::kX, x}, {Linear::kWeight, weight}}, node.label, node.layer)[Linear::kY];
    y = leave(y, node);
    out(node, Linear::kY, bias == kNoValue ? y : add_rows(y, bias, false, node));
  }

  void add_loss(const Node& node) {
    auto attrs = std::get<op_id<CrossEntropy>>(node.attrs);
    attrs.axis = "tensor";
    attrs.ranks = t_.ranks;
    attrs.first_row = vocabulary().begin;
    attrs.valid_rows = vocabulary().count;
    const ValueId x = enter(in(node, CrossEntropy::kX), node);
    const ValueId loss = add_node<CrossEntropy>(g_, attrs,
                                                {{CrossEntropy::kX, x},
                                                 {CrossEntropy::kWeight, in(node, CrossEntropy::kWeight)},
                                                 {CrossEntropy::kTargets, in(node, CrossEntropy::kTargets)}},
                                                node.label, node.layer)[CrossEntropy::kLoss];
    const Value& old = whole_[node.value[CrossEntropy::kLoss]];
    g_[loss].name = old.name;
    g_[loss].persistent = old.persistent;
    g_[loss].memory = old.memory;
    out(node, CrossEntropy::kLoss, loss);
  }

  const Graph& whole_;
  const ModelConfig& m_;
  const TensorParallel& t_;
  Graph g_;
  std::map<ValueId, ValueId> map_, entered_;
};

}  // namespace

int TensorParallel::kv_copies(const ModelConfig& model) const {
  return static_cast<int>(std::max<std::int64_t>(1, ranks / model.kv_heads));
}

std::optional<std::string> tensor_parallel_fault(const ModelConfig& model, std::int64_t sequence,
                                                 const TensorParallel& t) {
  if (model.heads % t.ranks != 0) return fmt::format("{} heads are not divisible by tensor {}", model.heads, t.ranks);
  if (model.kv_heads % t.ranks != 0 && t.ranks % model.kv_heads != 0) {
    return fmt::format("neither of tensor {} and {} key/value heads divides the other", t.ranks, model.kv_heads);
  }
  if (model.ffn % t.ranks != 0) return fmt::format("ffn {} is not divisible by tensor {}", model.ffn, t.ranks);
  if (t.sequence && sequence % t.ranks != 0)
    return fmt::format("{} tokens are not divisible by tensor {}", sequence, t.ranks);
  if ((model.vocabulary + t.ranks - 1) / t.ranks * (t.ranks - 1) >= model.vocabulary) {
    return fmt::format("{} ids leave a rank of tensor {} without any", model.vocabulary, t.ranks);
  }
  return std::nullopt;
}

Graph split_over_tensor(const Graph& whole, const ModelConfig& model, const TensorParallel& t) {
  return TensorSplitter(whole, model, t).run();
}

void sum_split_gradients(Graph& graph, const ModelConfig& model, const TensorParallel& t, bool every_micro_batch,
                         std::int64_t scratch_bytes) {
  const std::vector<std::size_t> last_write = last_writes(graph);
  Inserts sums;
  const auto add = [&](ValueId gradient, ValueId part, const char* axis, int ranks) {
    const ValueId scratch = reduction_scratch(graph, axis, scratch_bytes);
    sums.push_back({last_write[static_cast<std::size_t>(gradient)], false,
                    communication_node<AllReduce>(graph, {axis, ranks}, Phase::Reduce,
                                                  {{AllReduce::kX, part}, {AllReduce::kScratch, scratch}},
                                                  "sum." + graph[gradient].name, graph[gradient].layer,
                                                  every_micro_batch ? kEveryVariant : kFinalVariants)});
  };
  const int copies = t.kv_copies(model);
  for (const Parameter& p : std::vector<Parameter>(graph.parameters)) {
    const std::string& name = graph[p.value].name;
    const bool qkv = name.find("attention.qkv.") != std::string::npos,
               qk_norm = name.find("attention.q_norm") != std::string::npos ||
                         name.find("attention.k_norm") != std::string::npos;
    const bool copied = !qkv && std::all_of(p.parts.begin(), p.parts.end(), [&](const ParameterPart& part) {
      return part.rows * part.columns == part.shape.elements();
    });
    if (qkv && copies > 1) {
      // Keys and values of the packed outputs: the rows behind the queries.
      const TensorSpec& spec = graph[p.gradient].spec;
      const std::int64_t columns = spec.elements() / spec.shape[0], queries = model.query_size() / t.ranks * columns;
      Value rows = graph[p.gradient];
      rows.name += ".kv";
      rows.spec = {{spec.elements() - queries}, spec.dtype};
      rows.base = p.gradient;
      rows.byte_offset = queries * dtype_bytes(spec.dtype);
      add(p.gradient, graph.add_value(std::move(rows)), "kv_copy", copies);
    } else if (copied && (t.sequence || qk_norm)) {
      add(p.gradient, p.gradient, "tensor", t.ranks);
    }
  }
  insert_nodes(graph, std::move(sums));
}

}  // namespace plimsoll
