#pragma once
// The decoder layer of Llama 3 8B at 8192 tokens in bf16, with roofline costs of one H200: 0.65 of 989 TFLOP/s for
// matrix products, half of it for attention, 0.75 of 4.8 TB/s, and 3 µs for every kernel. The check values of these
// costs are known, to which tests compare the planner: they are of 642.85 TFLOP/s, and rounded up to 643 a forward
// would take 7.056 ms instead of 7.058, a step 740.2 ms instead of 740.3.

#include "runtime/plan/recompute_plan.hpp"

namespace plimsoll::llama_8b {

inline constexpr std::int64_t kTokens = 8192, kHidden = 4096, kKeyValue = 1024, kFfn = 14336, kSequence = 8192,
                              kHeads = 32, kVocabulary = 128256;
inline constexpr int kLayers = 32;

inline double gemm(std::int64_t flops) { return static_cast<double>(flops) / (0.65 * 989e12) + 3e-6; }
inline double mem(std::int64_t bytes) { return static_cast<double>(bytes) / 3.6e12 + 3e-6; }
inline double attention(std::int64_t flops) { return static_cast<double>(flops) / 494.5e12 + 3e-6; }

enum Tensor { kX, kN1, kQkv, kO, kX1, kN2, kGu, kAct, kNext };
enum Gradient { kDNext, kDAct, kDGu, kDN2, kDX1, kDQkv, kDN1, kDX };

inline LayerKind layer() {
  constexpr std::int64_t n = kTokens, h = kHidden, kv = kKeyValue, f = kFfn;
  constexpr std::int64_t x = 2 * n * h, qkv = 2 * n * (h + 2 * kv);
  const auto tensor = [](const char* name, std::int64_t bytes, std::vector<int> from, double seconds) {
    return LayerTensor{.name = name, .bytes = bytes, .made_from = std::move(from), .seconds = seconds};
  };
  LayerKind kind;
  kind.name = "decoder";
  kind.tensors = {
      LayerTensor{.name = "x", .bytes = x, .always_kept = true},
      tensor("n1", x, {kX}, mem(4 * n * h)),
      tensor("qkv", qkv, {kN1}, gemm(2 * n * h * (h + 2 * kv)) + mem(4 * n * (h + kv))),
      tensor("o", x + 4 * n * kHeads, {kQkv}, attention(2 * n * kSequence * h)),
      tensor("x1", x, {kO, kX}, gemm(2 * n * h * h) + mem(2 * n * h)),
      tensor("n2", x, {kX1}, mem(4 * n * h)),
      tensor("gu", 4 * n * f, {kN2}, gemm(4 * n * h * f)),
      tensor("act", 2 * n * f, {kGu}, mem(6 * n * f)),
      tensor("next", x, {kAct, kX1}, gemm(2 * n * h * f) + mem(2 * n * h)),
  };
  kind.output = kNext;
  kind.gradients = {{"d_next", x}, {"d_act", 2 * n * f}, {"d_gu", 4 * n * f}, {"d_n2", x},
                    {"d_x1", x},   {"d_qkv", qkv},       {"d_n1", x},         {"d_x", x}};
  kind.steps = {
      {.name = "down", .reads = {kAct}, .makes = {kDAct}, .uses = {kDNext}},
      {.name = "swiglu", .reads = {kGu}, .makes = {kDGu}, .uses = {kDAct}},
      {.name = "gate and up", .reads = {kN2}, .makes = {kDN2}, .uses = {kDGu}},
      {.name = "norm 2", .reads = {kX1}, .makes = {kDX1}, .uses = {kDN2, kDNext}},
      {.name = "attention", .reads = {kO, kQkv}, .makes = {kDQkv}, .uses = {kDX1}},
      {.name = "query, key, value", .reads = {kN1}, .makes = {kDN1}, .uses = {kDQkv}},
      {.name = "norm 1", .reads = {kX}, .makes = {kDX}, .uses = {kDN1, kDX1}},
  };
  // Of a block of rows, three matrix products, their pointwise ops and the same in backward are launched once more.
  constexpr double launches = 12 * 3e-6;
  kind.rows = RowSplit{.tensors = {kGu, kAct},
                       .first_step = 0,
                       .last_step = 2,
                       .parts = {{2, launches}, {4, 3 * launches}, {8, 7 * launches}}};
  return kind;
}

inline double backward_seconds() {
  constexpr std::int64_t n = kTokens, h = kHidden, kv = kKeyValue, f = kFfn;
  return 2 * (gemm(2 * n * h * (h + 2 * kv)) + gemm(2 * n * h * h) + gemm(6 * n * h * f)) +
         2.5 * static_cast<double>(2 * n * kSequence * h) / (0.9 * 494.5e12) + 5 * mem(4 * n * h) + 2 * mem(6 * n * f);
}

inline std::int64_t head_bytes() { return 6 * kTokens * kHidden + 8 * (kTokens / 8) * kVocabulary; }
inline double head_seconds() { return 3 * gemm(2 * kTokens * kHidden * kVocabulary); }

inline RecomputeStage stage(int layers = kLayers, int in_flight = 1) {
  RecomputeStage stage;
  stage.kinds = {layer()};
  stage.layers.assign(layers, 0);
  stage.in_flight = in_flight;
  stage.head_bytes = head_bytes();
  return stage;
}

inline double step_seconds() { return kLayers * (layer().forward_seconds() + backward_seconds()) + head_seconds(); }

}  // namespace plimsoll::llama_8b
