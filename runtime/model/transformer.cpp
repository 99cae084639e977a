#include "runtime/model/transformer.hpp"

#include <cmath>

#include "runtime/core/rng.hpp"

namespace plimsoll {
namespace {

class Builder {
 public:
  Builder(const ModelConfig& model, const ModelShape& shape) : m_(model), s_(shape) {
    layout_ = {static_cast<int>(m_.heads), static_cast<int>(m_.kv_heads), static_cast<int>(m_.head_dim)};
    gpt2_ = m_.family == ModelFamily::Gpt2;
    root_ = gpt2_ ? "transformer." : "model.";
  }

  Graph build() {
    if (s_.parts.empty()) {
      build_part({0, m_.layers, true, true});
      return std::move(g_);
    }
    for (const ModelPart& part : s_.parts) {
      const std::size_t begin = g_.nodes.size();
      g_.pieces.emplace_back();
      build_part(part);
      for (std::size_t n = begin; n < g_.nodes.size(); ++n) g_.nodes[n].chunk = static_cast<int>(g_.pieces.size()) - 1;
    }
    return std::move(g_);
  }

 private:
  void build_part(const ModelPart& part) {
    layer_ = -1;
    ValueId x = part.embedding ? embed() : piece_input();
    ValueId residual = kNoValue;
    for (layer_ = static_cast<int>(part.first_layer); layer_ < part.end_layer; ++layer_) {
      residual = attention_block(norm(x, residual, gpt2_ ? "ln_1" : "input_layernorm"));
      residual = mlp_block(norm(x, residual, gpt2_ ? "ln_2" : "post_attention_layernorm"));
    }
    layer_ = -1;
    if (part.head) {
      head(norm(x, residual, gpt2_ ? "ln_f" : "norm"));
    } else {
      g_.pieces.back().output = add_node<Add>(g_, {}, {{Add::kA, x}, {Add::kB, residual}}, "piece.output", -1)[Add::kY];
    }
  }

  ValueId piece_input() {
    Value v;
    v.name = fmt::format("piece{}.input", g_.pieces.size() - 1);
    v.spec = {{s_.batch, s_.sequence, m_.hidden}, s_.dtype};
    return g_.pieces.back().input = g_.add_value(std::move(v));
  }

  ValueId embed() {
    const ValueId tokens = input("tokens", {{s_.batch, s_.sequence}, DType::i32});
    embedding_ = embedding_table();
    const ValueId positions =
        gpt2_ ? parameter("positions", {{root_ + "wpe.weight", {m_.positions, m_.hidden}}}, normal()) : kNoValue;
    const ValueId x = add_node<Embedding>(
        g_, {}, {{Embedding::kTokens, tokens}, {Embedding::kWeight, embedding_}, {Embedding::kPositions, positions}},
        "embedding", -1)[Embedding::kY];
    return gpt2_ ? dropout(x, "embedding_dropout") : x;
  }

  struct PartSpec {
    std::string name;
    Shape shape;
  };
  Initializer normal(bool residual_projection = false) const {
    const double scale =
        residual_projection && m_.scale_residual_init ? 1.0 / std::sqrt(2.0 * static_cast<double>(m_.layers)) : 1.0;
    return {Initializer::Kind::Normal, m_.init_std * scale};
  }
  static Initializer zeros() { return {Initializer::Kind::Zeros, 0}; }
  static Initializer ones() { return {Initializer::Kind::Ones, 0}; }
  std::string hf(const std::string& name) const {
    if (layer_ < 0) return root_ + name;
    return fmt::format("{}{}.{}.{}", root_, gpt2_ ? "h" : "layers", layer_, name);
  }

  ValueId input(const std::string& name, TensorSpec spec) {
    Value v;
    v.name = fmt::format("{}_{}x{}", name, spec.shape[0], spec.shape[1]);  // programs of one shape share it
    v.spec = spec;
    v.persistent = true;
    v.memory = MemoryClass::Staging;
    return g_.named[name] = g_.add_value(std::move(v));
  }

  // Parts stack along dim 0 into one tensor (q, k and v projections; gate and up).
  ValueId parameter(const std::string& label, const std::vector<PartSpec>& parts, Initializer init) {
    Parameter p;
    p.init = init;
    Shape shape = parts.front().shape;
    std::int64_t rows = 0;
    for (const PartSpec& part : parts) {
      p.parts.push_back(
          {part.name, part.shape, 0, 0, part.shape[0], part.shape.elements() / part.shape[0], rows, 0, true});
      rows += part.shape[0];
    }
    shape[0] = rows;
    Value v;
    v.name = layer_ >= 0 ? fmt::format("{}.{}", layer_, label) : label;
    v.spec = {shape, s_.dtype};
    v.persistent = true;
    v.memory = MemoryClass::Parameters;
    v.layer = layer_;
    p.value = g_.add_value(std::move(v));
    g_.parameters.push_back(p);
    return p.value;
  }

  // The next norm of the residual stream x; adds the block's output first when there is one.
  ValueId norm(ValueId& x, ValueId residual, const std::string& name) {
    const ValueId weight = parameter(name + ".weight", {{hf(name + ".weight"), {m_.hidden}}}, ones());
    const ValueId bias =
        gpt2_ && m_.bias ? parameter(name + ".bias", {{hf(name + ".bias"), {m_.hidden}}}, zeros()) : kNoValue;
    SlotValues out;
    if (gpt2_ && residual == kNoValue) {
      return add_node<LayerNorm>(g_, {m_.norm_eps},
                                 {{LayerNorm::kX, x}, {LayerNorm::kWeight, weight}, {LayerNorm::kBias, bias}}, name,
                                 layer_)[LayerNorm::kY];
    }
    if (residual == kNoValue) {
      return add_node<RmsNorm>(g_, {m_.norm_eps}, {{RmsNorm::kX, x}, {RmsNorm::kWeight, weight}}, name,
                               layer_)[RmsNorm::kY];
    }
    if (gpt2_) {
      out = add_node<AddLayerNorm>(g_, {m_.norm_eps},
                                   {{AddLayerNorm::kX, x},
                                    {AddLayerNorm::kResidual, residual},
                                    {AddLayerNorm::kWeight, weight},
                                    {AddLayerNorm::kBias, bias}},
                                   name, layer_);
      x = out[AddLayerNorm::kSum];
      return out[AddLayerNorm::kY];
    }
    out = add_node<AddRmsNorm>(g_, {m_.norm_eps},
                               {{AddRmsNorm::kX, x}, {AddRmsNorm::kResidual, residual}, {AddRmsNorm::kWeight, weight}},
                               name, layer_);
    x = out[AddRmsNorm::kSum];
    return out[AddRmsNorm::kY];
  }

  // `parts`: name without ".weight", output width.
  ValueId linear(ValueId x, const std::string& label, const std::vector<std::pair<std::string, std::int64_t>>& parts,
                 bool bias, Initializer init, Activation activation = Activation::None) {
    const std::int64_t in = g_[x].spec.last();
    std::vector<PartSpec> weights, biases;
    for (const auto& [name, width] : parts) {
      weights.push_back({hf(name + ".weight"), gpt2_ ? Shape{in, width} : Shape{width, in}});
      biases.push_back({hf(name + ".bias"), {width}});
    }
    const ValueId w = parameter(label + ".weight", weights, init);
    const ValueId b = bias ? parameter(label + ".bias", biases, zeros()) : kNoValue;
    if (s_.fp8) return fp8_linear(x, w, b, label, activation);
    return add_node<Linear>(g_, {gpt2_, activation, s_.backward},
                            {{Linear::kX, x}, {Linear::kWeight, w}, {Linear::kBias, b}}, label, layer_)[Linear::kY];
  }

  ValueId fp8_linear(ValueId x, ValueId weight, ValueId bias, const std::string& label, Activation activation) {
    Value v;
    v.name = fmt::format("{}.{}.{}", layer_, label, kFp8ScalingName);
    v.spec = {{2, kFp8Roles}, DType::f32};
    v.persistent = true;
    v.memory = MemoryClass::Optimizer;
    v.layer = layer_;
    const ValueId scaling = g_.add_value(std::move(v));
    const ValueId x8 = add_node<QuantizeFp8>(g_, {}, {{QuantizeFp8::kX, x}, {QuantizeFp8::kScaling, scaling}},
                                             label + ".fp8", layer_)[QuantizeFp8::kY];
    const ValueId y = add_node<LinearFp8>(g_, {gpt2_},
                                          {{LinearFp8::kX, x},
                                           {LinearFp8::kX8, x8},
                                           {LinearFp8::kWeight, weight},
                                           {LinearFp8::kBias, bias},
                                           {LinearFp8::kScaling, scaling}},
                                          label, layer_)[LinearFp8::kY];
    if (activation == Activation::None) return y;
    return add_node<Activate>(g_, {activation}, {{Activate::kX, y}}, label + ".activation", layer_)[Activate::kY];
  }

  ValueId dropout(ValueId x, const std::string& label) {
    if (!s_.dropout || m_.dropout == 0) return x;
    return add_node<Dropout>(g_, {m_.dropout, site(label)}, {{Dropout::kX, x}}, label, layer_)[Dropout::kY];
  }
  std::uint64_t site(const std::string& label) const { return stream_id(fmt::format("{}.{}", layer_, label)); }

  ValueId attention_block(ValueId x) {
    const std::int64_t q = m_.query_size(), kv = m_.kv_size();
    ValueId qkv = gpt2_ ? linear(x, "attention.qkv", {{"attn.c_attn", q + 2 * kv}}, m_.has_qkv_bias(), normal())
                        : linear(x, "attention.qkv",
                                 {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}},
                                 m_.has_qkv_bias(), normal());
    if (m_.qk_norm) {
      const ValueId qw = parameter("attention.q_norm", {{hf("self_attn.q_norm.weight"), {m_.head_dim}}}, ones());
      const ValueId kw = parameter("attention.k_norm", {{hf("self_attn.k_norm.weight"), {m_.head_dim}}}, ones());
      qkv = add_node<HeadNorm>(g_, {layout_.heads, layout_.kv_heads, layout_.head_dim, m_.norm_eps},
                               {{HeadNorm::kX, qkv}, {HeadNorm::kQueryWeight, qw}, {HeadNorm::kKeyWeight, kw}},
                               "attention.qk_norm", layer_)[HeadNorm::kY];
    }
    if (!gpt2_) qkv = add_node<Rope>(g_, {layout_, rope_rule()}, {{Rope::kX, qkv}}, "attention.rope", layer_)[Rope::kY];
    const ValueId mixed = attention(qkv);
    const ValueId out =
        gpt2_ ? linear(mixed, "attention.output", {{"attn.c_proj", m_.hidden}}, m_.bias, normal(true))
              : linear(mixed, "attention.output", {{"self_attn.o_proj", m_.hidden}}, m_.bias, normal(true));
    return dropout(out, "attention.output_dropout");
  }

  ValueId attention(ValueId qkv) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(m_.head_dim));
    if (s_.cache_positions == 0) {
      Attention::Attrs attrs{layout_, scale, s_.dropout ? m_.dropout : 0.0, site("attention.dropout")};
      attrs.fused_heads = s_.fused_heads;
      return add_node<Attention>(g_, attrs, {{Attention::kQkv, qkv}}, "attention", layer_)[Attention::kOut];
    }
    const auto cache = [&](const char* name) {
      Value v;
      v.name = fmt::format("{}.{}", layer_, name);
      v.spec = {{s_.batch, s_.cache_positions, m_.kv_size()}, s_.dtype};
      v.persistent = true;
      v.memory = MemoryClass::KvCache;
      v.layer = layer_;
      return g_.named["cache"] = g_.add_value(std::move(v));
    };
    return add_node<CachedAttention>(g_, {layout_, scale},
                                     {{CachedAttention::kQkv, qkv},
                                      {CachedAttention::kKeys, cache("keys")},
                                      {CachedAttention::kValues, cache("values")}},
                                     "attention", layer_)[CachedAttention::kOut];
  }

  RopeRule rope_rule() const {
    const RopeConfig& r = m_.rope;
    const auto stretch = r.scaling == RopeScaling::Llama3   ? RopeStretch::Llama3
                         : r.scaling == RopeScaling::Linear ? RopeStretch::Linear
                                                            : RopeStretch::None;
    const std::int64_t original = r.original_positions != 0 ? r.original_positions : m_.positions;
    return {r.theta, stretch, r.factor, r.low_freq_factor, r.high_freq_factor, static_cast<int>(original)};
  }

  ValueId mlp_block(ValueId x) {
    ValueId out;
    if (gpt2_) {
      x = linear(x, "mlp.up", {{"mlp.c_fc", m_.ffn}}, m_.bias, normal(), m_.activation);
      out = linear(x, "mlp.down", {{"mlp.c_proj", m_.hidden}}, m_.bias, normal(true));
    } else {
      x = linear(x, "mlp.gate_up", {{"mlp.gate_proj", m_.ffn}, {"mlp.up_proj", m_.ffn}}, m_.bias, normal());
      x = add_node<SwiGlu>(g_, {}, {{SwiGlu::kX, x}}, "mlp.swiglu", layer_)[SwiGlu::kY];
      out = linear(x, "mlp.down", {{"mlp.down_proj", m_.hidden}}, m_.bias, normal(true));
    }
    return dropout(out, "mlp.dropout");
  }

  ValueId embedding_table() {
    const std::string table = root_ + (gpt2_ ? "wte.weight" : "embed_tokens.weight");
    return parameter("embedding", {{table, {m_.vocabulary, m_.hidden}}}, normal());
  }

  void head(ValueId hidden) {
    if (m_.tied && embedding_ == kNoValue) {
      embedding_ = embedding_table();
      g_.parameters.back().parts.front().owned = false;
    }
    if (s_.head == Head::Hidden) {
      g_.named["hidden"] = hidden;
      if (!m_.tied) parameter("head", {{"lm_head.weight", {m_.vocabulary, m_.hidden}}}, normal());
      return;
    }
    const ValueId weight =
        m_.tied ? embedding_ : parameter("head", {{"lm_head.weight", {m_.vocabulary, m_.hidden}}}, normal());
    if (s_.head == Head::Logits) {
      g_.named["logits"] =
          add_node<Linear>(g_, {}, {{Linear::kX, hidden}, {Linear::kWeight, weight}}, "head", -1)[Linear::kY];
      return;
    }
    const ValueId targets = input("targets", {{s_.batch, s_.sequence}, DType::i32});
    const std::int64_t rows = s_.batch * s_.sequence;
    const std::int64_t chunk = logits_chunk_rows(rows, m_.vocabulary, s_.dtype, s_.logits_bytes);
    CrossEntropy::Attrs attrs;
    attrs.chunk_rows = chunk;
    const ValueId loss = add_node<CrossEntropy>(
        g_, attrs, {{CrossEntropy::kX, hidden}, {CrossEntropy::kWeight, weight}, {CrossEntropy::kTargets, targets}},
        "loss", -1)[CrossEntropy::kLoss];
    g_[loss].persistent = true;
    g_[loss].memory = MemoryClass::Staging;
    g_.named["loss"] = loss;
  }

  const ModelConfig& m_;
  const ModelShape& s_;
  Graph g_;
  HeadLayout layout_;
  bool gpt2_;
  std::string root_;
  ValueId embedding_ = kNoValue;
  int layer_ = -1;
};

template <class T>
void initialise(const ParameterPart& part, const Initializer& init, std::uint64_t seed, std::int64_t first,
                std::int64_t count, T* out) {
  if (init.kind != Initializer::Kind::Normal) {
    std::fill(out, out + count, init.kind == Initializer::Kind::Ones ? T{1} : T{0});
    return;
  }
  const RandomStream stream(seed, part.name);
  for (std::int64_t i = first; i < first + count;) {
    const auto four = stream.normals(static_cast<std::uint64_t>(i) / 4);
    for (std::int64_t k = i % 4; k < 4 && i < first + count; ++k, ++i) {
      out[i - first] = static_cast<T>(static_cast<float>(init.std * four[static_cast<std::size_t>(k)]));
    }
  }
}

}  // namespace

std::int64_t logits_chunk_rows(std::int64_t rows, std::int64_t vocabulary, DType dtype, std::int64_t logits_bytes) {
  constexpr std::int64_t kMultiple = 16;
  const std::int64_t most = std::max<std::int64_t>(1, logits_bytes / (vocabulary * dtype_bytes(dtype)));
  const std::int64_t chunks = (rows + most - 1) / most, even = (rows + chunks - 1) / chunks;
  return std::min({rows, most, (even + kMultiple - 1) / kMultiple * kMultiple});
}

Graph build_transformer(const ModelConfig& model, const ModelShape& shape) {
  require(model.vocabulary > 0, ErrorKind::Config, "model.vocabulary is not known: give it, or data with a tokenizer");
  require(model.family != ModelFamily::Gpt2 || std::max(shape.sequence, shape.cache_positions) <= model.positions,
          ErrorKind::Config, "{} tokens do not fit the model's {} positions",
          std::max(shape.sequence, shape.cache_positions), model.positions);
  return Builder(model, shape).build();
}

void initialise_range(const ParameterPart& part, const Initializer& init, std::uint64_t seed, std::int64_t first,
                      std::int64_t count, float* out) {
  initialise(part, init, seed, first, count, out);
}
void initialise_range(const ParameterPart& part, const Initializer& init, std::uint64_t seed, std::int64_t first,
                      std::int64_t count, double* out) {
  initialise(part, init, seed, first, count, out);
}

}  // namespace plimsoll
