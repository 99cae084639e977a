#pragma once
// Text from a model: sampling, and the loop over the prefill and decode programs.

#include <functional>
#include <random>

#include "launch/engine.hpp"

namespace plimsoll {

struct SamplingOptions {
  double temperature = 1.0;  // 0: the most likely token
  std::int64_t top_k = 0;    // keep the k most likely tokens; 0: all
  double top_p =
      1.0;  // keep the smallest set of most likely tokens with at least this probability (Holtzman et al. 2020)
  std::uint64_t seed = 1;
  std::int64_t ids = 0;  // draw among the first ids only: those that the tokenizer has; 0: all
};

// Draws a token from `logits`. `draw` numbers the draws of a run: the result is a function of (logits, options, draw).
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw);

// Appends up to `count` tokens to `prompt` (not empty); each is passed to `on_token`, which returns false to stop. The
// engine has the programs "prefill" and "decode". A text that is longer than the model's positions slides through a
// window of its last `positions` tokens, whose positions begin at 0: the cache is filled again for every token from
// there on. Error(Usage) for an empty prompt.
std::vector<std::int32_t> generate(Engine& engine, std::vector<std::int32_t> prompt, std::int64_t count,
                                   const SamplingOptions& options, const std::function<bool(std::int32_t)>& on_token);

}  // namespace plimsoll
