// JSON lines: milliseconds and GFLOP/s of attention and cross-entropy in the shape of GPT-2 124M: 4 sequences of 256
// tokens. kernel_bench [threads [repetitions]]: medians of the repetitions, after two that are not counted. CPU time is
// that of all threads together; it hardly depends on what else runs on the machine.

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "kernels/cpu/register.hpp"
#include "runtime/core/rng.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kBatch = 4, kLength = 256, kHidden = 768, kVocabulary = 50304;
constexpr int kWarmUp = 2;

double median(std::vector<double>& samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

// One op with a buffer for every value and gradient.
template <class Op>
class Bench {
 public:
  Bench(const typename Op::Attrs& attrs, std::initializer_list<SampleSlot> slots, int threads)
      : attributes_(std::in_place_index<op_id<Op>>, attrs), threads_(threads) {
    for (const SampleSlot& s : slots) specs_.set(s.slot, {s.shape, s.dtype == DType::f64 ? DType::f32 : s.dtype});
    Op::infer(attrs, specs_);
    const RandomStream random(1, "bench");
    for (std::size_t s = 0; s < Op::slots.size(); ++s) {
      const int slot = static_cast<int>(s);
      if (!specs_.has(slot)) continue;
      const TensorSpec& spec = specs_[slot];
      for (View* view : {&values_[s], &grads_[s]}) {
        view->spec = spec;
        auto& floats = memory_.emplace_back(static_cast<std::size_t>(spec.bytes() / 4), 0.0F);
        view->data = floats.data();
        if (spec.dtype != DType::f32) continue;
        std::uint64_t i = 0;
        for (float& x : floats) x = static_cast<float>(random.uniform(i++) - 0.5);
      }
    }
  }

  View& value(int slot) { return values_[static_cast<std::size_t>(slot)]; }

  void run(Phase phase, std::string_view variant, int repetitions) {
    const auto& attrs = std::get<op_id<Op>>(attributes_);
    std::vector<std::byte> scratch(static_cast<std::size_t>(Op::workspace_bytes(attrs, specs_, phase, threads_)) + 64);
    StepInputs inputs;
    KernelArgs args;
    args.value = values_.data();
    args.grad = grads_.data();
    args.attributes = &attributes_;
    args.workspace = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64;
    args.threads = threads_;
    args.inputs = &inputs;
    const Kernel kernel = cpu_kernels().find(op_id<Op>, phase, DType::f32);
    std::vector<double> ms, cpu_ms;
    for (int i = -kWarmUp; i < repetitions; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const std::clock_t cpu_start = std::clock();
      kernel(args);
      const std::clock_t cpu_elapsed = std::clock() - cpu_start;
      const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
      if (i < 0) continue;
      ms.push_back(elapsed.count());
      cpu_ms.push_back(1e3 * static_cast<double>(cpu_elapsed) / CLOCKS_PER_SEC);
    }
    const double wall = median(ms), cpu = median(cpu_ms);
    const double gflop = 1e-6 * static_cast<double>(Op::flops(attrs, specs_, phase));
    fmt::print(
        R"({{"op": "{}", "variant": "{}", "phase": "{}", "threads": {}, "ms": {:.3f}, "gflops": {:.1f}, "cpu_ms": {:.3f}, )"
        R"("gflops_per_core": {:.1f}, "workspace_bytes": {}}})"
        "\n",
        Op::name, variant, phase_name(phase), threads_, wall, gflop / wall, cpu, gflop / cpu,
        Op::workspace_bytes(attrs, specs_, phase, threads_));
  }

 private:
  Attrs attributes_;
  int threads_;
  SlotSpecs specs_;
  std::array<View, kMaxSlots> values_, grads_;
  std::vector<std::vector<float>> memory_;
};

void attention(double dropout, int threads, int repetitions) {
  const Attention::Attrs attrs{{12, 12, 64}, 0.125, dropout, 1};
  Bench<Attention> bench(attrs, {{Attention::kQkv, {kBatch, kLength, attrs.layout.packed_width()}}}, threads);
  const std::string variant = fmt::format("dropout {}", dropout);
  bench.run(Phase::Forward, variant, repetitions);
  bench.run(Phase::InputGrad, variant, repetitions);
}

void cross_entropy(std::int64_t chunk_rows, int threads, int repetitions) {
  using Op = CrossEntropy;
  const SampleSlot x{Op::kX, {kBatch, kLength, kHidden}}, weight{Op::kWeight, {kVocabulary, kHidden}};
  Bench<Op> bench({chunk_rows}, {x, weight, {Op::kTargets, {kBatch, kLength}, DType::i32}}, threads);
  const std::string variant = fmt::format("chunks of {}", chunk_rows);
  bench.run(Phase::Forward, variant, repetitions);
  bench.run(Phase::InputGrad, variant, repetitions);
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : omp_get_max_threads();
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 15;
  omp_set_num_threads(threads);
  for (const double dropout : {0.0, 0.1}) plimsoll::attention(dropout, threads, repetitions);
  for (const std::int64_t chunk : {128, 256, 1024}) {
    plimsoll::cross_entropy(chunk, threads, std::max(1, repetitions / 5));
  }
}
