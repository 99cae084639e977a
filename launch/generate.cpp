#include "launch/generate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/core/rng.hpp"
#include "runtime/tensor/convert.hpp"

namespace plimsoll {

std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw) {
  if (options.ids > 0) logits = logits.first(std::min(logits.size(), static_cast<std::size_t>(options.ids)));
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

namespace {

// The tokens that the key/value cache holds: the last `positions` of a text, from position 0.
class Window {
 public:
  explicit Window(Engine& engine)
      : engine_(engine),
        prefill_(engine.executor("prefill")),
        decode_(engine.executor("decode")),
        positions_(decode_.view("cache").spec.shape[1]),
        chunk_(prefill_.view("tokens").spec.elements()) {}

  // Afterwards "logits" of the decode program are those after the last token of `text`, whose others are cached.
  void advance(std::span<const std::int32_t> text) {
    const auto size = static_cast<std::int64_t>(text.size());
    const auto window = text.last(static_cast<std::size_t>(std::min(size, positions_)));
    const auto last = static_cast<std::int64_t>(window.size()) - 1;
    if (!filled_ || size > positions_) fill(window);
    filled_ = true;
    feed(decode_, window.subspan(static_cast<std::size_t>(last)), last);
  }

 private:
  // Whole chunks: what is padded lies behind the last token, and is written again before anything attends to it. The
  // last chunk ends at the last position at most.
  void fill(std::span<const std::int32_t> window) {
    const auto size = static_cast<std::int64_t>(window.size());
    std::vector<std::int32_t> padded(window.begin(), window.end());
    padded.resize(static_cast<std::size_t>(positions_), 0);
    for (std::int64_t done = 0; done < size; done += chunk_) {
      const std::int64_t at = std::min(done, positions_ - chunk_);
      feed(
          prefill_,
          std::span<const std::int32_t>(padded).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(chunk_)),
          at);
    }
  }
  void feed(Executor& program, std::span<const std::int32_t> tokens, std::int64_t at) {
    engine_.device().copy_to_device(program.view("tokens").data, tokens.data(),
                                    static_cast<std::int64_t>(tokens.size_bytes()));
    program.inputs().position = at;
    program.run(Graph::Section::Forward);
    program.synchronize();
  }

  Engine& engine_;
  Executor &prefill_, &decode_;
  std::int64_t positions_, chunk_;
  bool filled_ = false;
};

}  // namespace

std::vector<std::int32_t> generate(Engine& engine, std::vector<std::int32_t> prompt, std::int64_t count,
                                   const SamplingOptions& options, const std::function<bool(std::int32_t)>& on_token) {
  require(!prompt.empty(), ErrorKind::Usage, "the prompt has no tokens");
  Window window(engine);
  const View logits_view = engine.executor("decode").view("logits");
  std::vector<float> logits(static_cast<std::size_t>(logits_view.spec.elements()));
  std::vector<std::byte> made(static_cast<std::size_t>(logits_view.spec.bytes()));
  for (std::int64_t i = 0; i < count; ++i) {
    window.advance(prompt);
    engine.device().copy_to_host(made.data(), logits_view.data, logits_view.spec.bytes());
    convert_elements(logits_view.spec.dtype, made.data(), DType::f32, logits.data(), std::ssize(logits));
    prompt.push_back(sample_token(logits, options, static_cast<std::uint64_t>(i)));
    if (!on_token(prompt.back())) break;
  }
  return prompt;
}

}  // namespace plimsoll
