// JSON lines: milliseconds and GFLOP/s of the kernels that take the time of a step, in f32, bf16 and f16, in the shape
// of GPT-2 124M: 4 sequences of 256 tokens. Beside the linear layer in bf16 stands oneDNN's product of the same
// matrices. kernel_bench [threads [repetitions]]: medians of the repetitions, after two that are not counted. CPU time
// is that of all threads together; it hardly depends on what else runs on the machine.

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "kernels/cpu/register.hpp"
#include "runtime/core/rng.hpp"
#ifdef PLIMSOLL_HAVE_ONEDNN
#include <dnnl.hpp>
#endif

namespace plimsoll {
namespace {

constexpr std::int64_t kBatch = 4, kLength = 256, kHidden = 768, kVocabulary = 50304;
constexpr int kWarmUp = 2;

double median(std::vector<double>& samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

template <class F>
void report(std::string_view op, DType dtype, std::string_view variant, std::string_view phase, int threads,
            double gflop, std::int64_t workspace_bytes, const F& run, int repetitions) {
  std::vector<double> ms, cpu_ms;
  for (int i = -kWarmUp; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    run();
    const std::clock_t cpu_elapsed = std::clock() - cpu_start;
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (i < 0) continue;
    ms.push_back(elapsed.count());
    cpu_ms.push_back(1e3 * static_cast<double>(cpu_elapsed) / CLOCKS_PER_SEC);
  }
  const double wall = median(ms), cpu = median(cpu_ms);
  fmt::print(
      R"({{"op": "{}", "dtype": "{}", "variant": "{}", "phase": "{}", "threads": {}, "ms": {:.3f}, "gflops": {:.1f}, )"
      R"("cpu_ms": {:.3f}, "gflops_per_core": {:.1f}, "workspace_bytes": {}}})"
      "\n",
      op, dtype_name(dtype), variant, phase, threads, wall, 1e3 * gflop / wall, cpu, 1e3 * gflop / cpu,
      workspace_bytes);
}

// One op with a buffer for every value and gradient.
template <class Op>
class Bench {
 public:
  Bench(const typename Op::Attrs& attrs, std::initializer_list<SampleSlot> slots, DType dtype, int threads)
      : attributes_(std::in_place_index<op_id<Op>>, attrs), dtype_(dtype), threads_(threads) {
    for (const SampleSlot& s : slots) specs_.set(s.slot, {s.shape, s.dtype == DType::f64 ? dtype : s.dtype});
    op_info(op_id<Op>).infer(attributes_, specs_);
    const RandomStream random(1, "bench");
    for (std::size_t s = 0; s < Op::slots.size(); ++s) {
      const int slot = static_cast<int>(s);
      if (!specs_.has(slot)) continue;
      values_[s].spec = specs_[slot];
      grads_[s].spec = gradient_spec(Op::slots[s], specs_[slot]);
      for (View* view : {&values_[s], &grads_[s]}) {
        view->data = memory_.emplace_back(static_cast<std::size_t>(view->spec.bytes())).data();
        if (view->spec.dtype == DType::f32) fill<float>(*view, random);
        if (view->spec.dtype == DType::bf16) fill<bf16>(*view, random);
        if (view->spec.dtype == DType::f16) fill<f16>(*view, random);
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
    const Kernel kernel = cpu_kernels().find(op_id<Op>, phase, dtype_);
    report(
        Op::name, dtype_, variant, phase_name(phase), threads_,
        1e-9 * static_cast<double>(Op::flops(attrs, specs_, phase)),
        Op::workspace_bytes(attrs, specs_, phase, threads_), [&] { kernel(args); }, repetitions);
  }

 private:
  template <class T>
  static void fill(const View& view, const RandomStream& random) {
    for (std::int64_t i = 0; i < view.spec.elements(); ++i) {
      view.as<T>()[i] = T(static_cast<float>(random.uniform(static_cast<std::uint64_t>(i)) - 0.5));
    }
  }

  Attrs attributes_;
  DType dtype_;
  int threads_;
  SlotSpecs specs_;
  std::array<View, kMaxSlots> values_, grads_;
  std::vector<std::vector<std::byte>> memory_;
};

void attention(double dropout, DType dtype, int threads, int repetitions) {
  const Attention::Attrs attrs{{12, 12, 64}, 0.125, dropout, 1};
  Bench<Attention> bench(attrs, {{Attention::kQkv, {kBatch, kLength, attrs.layout.packed_width()}}}, dtype, threads);
  const std::string variant = fmt::format("dropout {}", dropout);
  bench.run(Phase::Forward, variant, repetitions);
  bench.run(Phase::InputGrad, variant, repetitions);
}

void cross_entropy(std::int64_t chunk_rows, DType dtype, int threads, int repetitions) {
  using Op = CrossEntropy;
  const SampleSlot x{Op::kX, {kBatch, kLength, kHidden}}, weight{Op::kWeight, {kVocabulary, kHidden}};
  Bench<Op> bench({chunk_rows}, {x, weight, {Op::kTargets, {kBatch, kLength}, DType::i32}}, dtype, threads);
  const std::string variant = fmt::format("chunks of {}", chunk_rows);
  bench.run(Phase::Forward, variant, repetitions);
  bench.run(Phase::InputGrad, variant, repetitions);
}

void linear(std::int64_t in, std::int64_t out, DType dtype, int threads, int repetitions) {
  using Op = Linear;
  Bench<Op> bench({true}, {{Op::kX, {kBatch * kLength, in}}, {Op::kWeight, {in, out}}}, dtype, threads);
  const std::string variant = fmt::format("{} to {}", in, out);
  for (const Phase phase : {Phase::Forward, Phase::InputGrad, Phase::WeightGrad})
    bench.run(phase, variant, repetitions);
}

#ifdef PLIMSOLL_HAVE_ONEDNN
// C[m, n] = op(A) · B of bf16 by oneDNN's matmul, made once: the least that a library takes for what linear() does.
void onednn_matmul(bool trans_a, std::int64_t m, std::int64_t n, std::int64_t k, DType of_c, std::string_view variant,
                   int threads, int repetitions) {
  using dnnl::memory;
  using Strides = memory::dims;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto bf = memory::data_type::bf16, c_type = of_c == DType::bf16 ? bf : memory::data_type::f32;
  const memory a({{m, k}, bf, trans_a ? Strides{1, m} : Strides{k, 1}}, engine), b({{k, n}, bf, Strides{n, 1}}, engine),
      c({{m, n}, c_type, Strides{n, 1}}, engine);
  const dnnl::matmul product({dnnl::matmul::desc(a.get_desc(), b.get_desc(), c.get_desc()), engine});
  report(
      "onednn", DType::bf16, variant, "product", threads, 2e-9 * static_cast<double>(m * n * k), 0,
      [&] {
        product.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
        stream.wait();
      },
      repetitions);
}
#endif

void products(std::int64_t in, std::int64_t out, int threads, int repetitions) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) linear(in, out, dtype, threads, repetitions);
#ifdef PLIMSOLL_HAVE_ONEDNN
  constexpr std::int64_t kRows = kBatch * kLength;
  onednn_matmul(false, kRows, out, in, DType::bf16, fmt::format("{} to {}, y", in, out), threads, repetitions);
  onednn_matmul(true, in, out, kRows, DType::f32, fmt::format("{} to {}, dw", in, out), threads, repetitions);
#endif
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : omp_get_max_threads();
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 15;
  omp_set_num_threads(threads);
  plimsoll::products(768, 3072, threads, repetitions);
  plimsoll::products(3072, 768, threads, repetitions);
  for (const auto dtype : {plimsoll::DType::f32, plimsoll::DType::bf16, plimsoll::DType::f16}) {
    for (const double dropout : {0.0, 0.1}) plimsoll::attention(dropout, dtype, threads, repetitions);
    for (const std::int64_t chunk : {128, 256, 1024}) {
      plimsoll::cross_entropy(chunk, dtype, threads, std::max(1, repetitions / 5));
    }
  }
}
