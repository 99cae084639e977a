#include "launch/generate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/core/rng.hpp"

namespace plimsoll {

std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(order.size()))
    order.resize(static_cast<std::size_t>(options.top_k));
  std::vector<double> weight;
  double sum = 0;
  for (const std::int32_t token : order) {
    weight.push_back(
        std::exp((static_cast<double>(logits[static_cast<std::size_t>(token)]) - *best) / options.temperature));
    sum += weight.back();
  }
  double kept = 0;
  std::size_t count = 0;
  while (count < weight.size() && (count == 0 || kept < options.top_p * sum)) kept += weight[count++];
  const double at = RandomStream(options.seed, "sampling").uniform(draw) * kept;
  double passed = 0;
  for (std::size_t i = 0; i < count; ++i) {
    passed += weight[i];
    if (at < passed) return order[i];
  }
  return order[count - 1];
}

std::vector<std::int32_t> generate(Engine& engine, std::vector<std::int32_t> prompt, std::int64_t count,
                                   const SamplingOptions& options, const std::function<bool(std::int32_t)>& on_token) {
  Executor& prefill = engine.executor("prefill");
  Executor& decode = engine.executor("decode");
  const View prefill_tokens = prefill.view("tokens"), decode_tokens = decode.view("tokens");
  const std::int64_t chunk = prefill_tokens.spec.elements();
  const std::int64_t positions = decode.view("cache").spec.shape[1];
  require(!prompt.empty(), ErrorKind::Usage, "the prompt has no tokens");
  require(static_cast<std::int64_t>(prompt.size()) + count <= positions, ErrorKind::Usage,
          "a prompt of {} tokens and {} new ones do not fit the model's {} positions", prompt.size(), count, positions);
  const auto feed = [&](Executor& program, const View& tokens, std::int64_t at, std::int64_t n) {
    engine.device().copy_to_device(tokens.data, prompt.data() + at,
                                   n * static_cast<std::int64_t>(sizeof(std::int32_t)));
    program.inputs().position = at;
    program.run(Graph::Section::Forward);
    program.synchronize();
  };
  // All but the last token of the prompt fill the cache, in whole chunks first.
  std::int64_t at = 0;
  const auto last = static_cast<std::int64_t>(prompt.size()) - 1;
  for (; at + chunk <= last; at += chunk) feed(prefill, prefill_tokens, at, chunk);
  for (; at < last; ++at) feed(decode, decode_tokens, at, 1);

  const View logits_view = decode.view("logits");
  std::vector<float> logits(static_cast<std::size_t>(logits_view.spec.elements()));
  std::vector<double> wide(logits_view.spec.dtype == DType::f64 ? logits.size() : 0);
  for (std::int64_t i = 0; i < count; ++i, ++at) {
    feed(decode, decode_tokens, at, 1);
    if (wide.empty()) {
      engine.device().copy_to_host(logits.data(), logits_view.data, logits_view.spec.bytes());
    } else {
      engine.device().copy_to_host(wide.data(), logits_view.data, logits_view.spec.bytes());
      std::copy(wide.begin(), wide.end(), logits.begin());
    }
    prompt.push_back(sample_token(logits, options, static_cast<std::uint64_t>(i)));
    if (!on_token(prompt.back())) break;
  }
  return prompt;
}

}  // namespace plimsoll
