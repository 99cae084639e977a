#pragma once
// From a model's configuration to its forward graph. The families differ in norms, positions and MLP; what a block is
// made of is written down once. Parameters carry their Hugging Face names and layouts.

#include "runtime/graph/graph.hpp"
#include "runtime/model/config.hpp"

namespace plimsoll {

// What the graph ends in. Loss: cross-entropy (train, evaluate). Logits: [B, T, V]. Hidden: the normalised last hidden
// state (filling the key/value cache needs no head).
enum class Head : std::uint8_t { Loss, Logits, Hidden };

// Larger chunks of logits read the head's weight and add to its gradient less often; beyond this the gain is small.
inline constexpr std::int64_t kLogitsBytes = std::int64_t{128} << 20;

// A piece of a pipeline: consecutive layers, the first one with the embedding, the last one with the head. The residual
// stream enters and leaves as one value [B, T, h] (Graph::pieces).
struct ModelPart {
  std::int64_t first_layer = 0, end_layer = 0;
  bool embedding = false, head = false;
};

struct ModelShape {
  std::int64_t batch = 1;     // sequences of a micro-batch
  std::int64_t sequence = 1;  // tokens of each
  Head head = Head::Loss;
  DType dtype = DType::f32;
  std::int64_t logits_bytes = kLogitsBytes;  // most logits that exist at a time
  std::int64_t cache_positions = 0;          // > 0: inference through key/value caches of this many tokens
  bool dropout = false;                      // training: dropout acts (model.dropout)
  std::vector<ModelPart> parts = {};         // one after another, each a chunk of the graph; empty: the whole model
  bool fp8 = false;                          // training: linears of the layers multiply in fp8 (runtime/ops/fp8.hpp)
  FusedHeads fused_heads = {};               // Attention::Attrs::fused_heads
  bool backward = true;                      // false: there will be none, and nothing is kept for it
};

// named: "tokens" [B, T] i32, and by head "targets" and "loss" (f64 [2]: sum, count), "logits", or "hidden"; with
// caches "cache", one of them [B, positions, width]; each where its part of the model is. A part with the head of a
// tied embedding but without the embedding has a copy of it, which it does not own. Throws Error(Config) when the
// sequence is longer than the model's positions or the vocabulary is unknown.
Graph build_transformer(const ModelConfig& model, const ModelShape& shape);

// Rows of logits that exist at a time: `rows` in equal chunks of at most `logits_bytes` (or one row), rounded to 16
// rows.
std::int64_t logits_chunk_rows(std::int64_t rows, std::int64_t vocabulary, DType dtype, std::int64_t logits_bytes);

// Initial values of elements [first, first + count) of one tensor: element i is drawn at index i of stream (seed,
// name), on every backend and layout the same.
void initialise_range(const ParameterPart& part, const Initializer& init, std::uint64_t seed, std::int64_t first,
                      std::int64_t count, float* out);
void initialise_range(const ParameterPart& part, const Initializer& init, std::uint64_t seed, std::int64_t first,
                      std::int64_t count, double* out);

}  // namespace plimsoll
