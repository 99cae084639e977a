// The matrix products of a training step, shape by shape and backend by backend: one JSON line each. Beside the
// backends of gemm(), "onednn-packed" packs the weights in a call of its own before each product.
//   gemm_bench [threads] [repetitions] [name filter]
// Weights rotate over more copies than a cache holds, as they do in a step. Backends take turns within a repetition,
// and the best repetition counts: by CPU time of the process per thread (steady on a shared machine) and by wall time.
// `share` is the CPU-time rate over that of FMAs on registers, measured in the same turns.

#include <fmt/format.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/simd.hpp"
#include "runtime/core/error.hpp"
#ifdef PLIMSOLL_HAVE_ONEDNN
#include "tests/bench/packed_product.hpp"
#endif

namespace plimsoll {
namespace {

struct Shape {
  std::string name;
  bool trans_a, trans_b;
  std::int64_t m, n, k;
  bool rotates_c = false;  // C, not B, is the weight (gradient)
  float beta = 0;
};

// Forward, input gradient and weight gradient of a linear layer over `tokens`.
void add_linear(std::vector<Shape>& shapes, const std::string& name, std::int64_t tokens, std::int64_t in,
                std::int64_t out, bool in_out) {
  shapes.push_back({name + ".y", false, !in_out, tokens, out, in});
  shapes.push_back({name + ".dx", false, in_out, tokens, in, out});
  for (const float beta : {0.0F, 1.0F}) {
    if (in_out) {
      shapes.push_back({fmt::format("{}.dw{}", name, beta != 0 ? "+=" : ""), true, false, in, out, tokens, true, beta});
    } else {
      shapes.push_back({fmt::format("{}.dw{}", name, beta != 0 ? "+=" : ""), true, false, out, in, tokens, true, beta});
    }
  }
}

std::vector<Shape> transformer_shapes() {
  std::vector<Shape> shapes;
  for (const bool in_out : {true, false}) {
    const std::string layout = in_out ? "io" : "oi";
    add_linear(shapes, "gpt2.qkv." + layout, 1024, 768, 2304, in_out);
    add_linear(shapes, "gpt2.out." + layout, 1024, 768, 768, in_out);
    add_linear(shapes, "gpt2.fc." + layout, 1024, 768, 3072, in_out);
    add_linear(shapes, "gpt2.proj." + layout, 1024, 3072, 768, in_out);
  }
  add_linear(shapes, "384.qkv.io", 2048, 384, 1152, true);
  add_linear(shapes, "384.fc.io", 2048, 384, 1536, true);
  add_linear(shapes, "384.proj.io", 2048, 1536, 384, true);
  for (const std::int64_t hidden : {384, 768}) {
    for (const std::int64_t rows : {128, 256, 512, 1024}) {
      const std::string name = fmt::format("{}.head.{}", hidden == 768 ? "gpt2" : "384", rows);
      shapes.push_back({name + ".y", false, true, rows, 50304, hidden});
      shapes.push_back({name + ".dx", false, false, rows, hidden, 50304});
      shapes.push_back({name + ".dw+=", true, false, 50304, hidden, rows, true, 1.0F});
    }
  }
  return shapes;
}

double process_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Best {
  double cpu = 1e30, wall = 1e30;
};

void time_once(Best& best, const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  const double cpu = process_seconds();
  f();
  best.cpu = std::min(best.cpu, process_seconds() - cpu);
  best.wall = std::min(best.wall, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

// 24 independent chains of FMAs on every thread; returns the work done.
constexpr std::int64_t kFmaSteps = 300000;
void fma_loop() {
#pragma omp parallel
  {
    using Vector = simd::Vector<float>;
    Vector sum[24]{};
    const Vector x = Vector{} + 0.9999F, y = Vector{} + 1e-6F;
    for (std::int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 24
      for (std::size_t j = 0; j < 24; ++j) {
        sum[j] = sum[j] * x + y;
        asm volatile("" : "+v"(sum[j]));
      }
    }
  }
}

// Memory on huge pages, as in the arena.
class Buffer {
 public:
  ~Buffer() { std::free(data_); }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  float* data() const { return data_; }
  void reserve(std::int64_t floats, float value) {
    if (floats <= size_) return;
    constexpr std::size_t kHugePage = std::size_t{2} << 20;
    const std::size_t bytes = (static_cast<std::size_t>(floats) * 4 + kHugePage - 1) / kHugePage * kHugePage;
    std::free(data_);
    data_ = static_cast<float*>(std::aligned_alloc(kHugePage, bytes));
    madvise(data_, bytes, MADV_HUGEPAGE);
    std::fill_n(data_, floats, value);
    size_ = floats;
  }

 private:
  float* data_ = nullptr;
  std::int64_t size_ = 0;
};

struct Backend {
  std::string name;
  std::function<void(const Shape&, const float* a, const float* b, float* c)> run;
};

class Bench {
 public:
  Bench(int threads, int repetitions) : threads_(threads), repetitions_(repetitions) {
    omp_set_num_threads(threads);
    for (const char* name : {"libxsmm", "openblas", "onednn", "eigen"}) {
      try {
        set_gemm_backend(name);
      } catch (const Error&) {
        continue;
      }
      backends_.push_back({name, [name](const Shape& s, const float* a, const float* b, float* c) {
                             set_gemm_backend(name);
                             gemm(s.trans_a, s.trans_b, s.m, s.n, s.k, a, s.trans_a ? s.m : s.k, b,
                                  s.trans_b ? s.k : s.n, s.beta, c, s.n);
                           }});
    }
#ifdef PLIMSOLL_HAVE_ONEDNN
    backends_.push_back({"onednn-packed", [this](const Shape& s, const float* a, const float* b, float* c) {
                           if (packed_shape_ != s.name) {
                             packed_ = std::make_unique<PackedProduct>(s.trans_a, s.trans_b, s.m, s.n, s.k, s.beta);
                             packed_shape_ = s.name;
                           }
                           (*packed_)(a, b, c);
                         }});
#endif
  }

  void run(const Shape& s) {
    const std::int64_t a_size = s.m * s.k, b_size = s.k * s.n, c_size = s.m * s.n;
    const std::int64_t rotating = s.rotates_c ? c_size : b_size;
    const std::int64_t copies = std::max<std::int64_t>(1, std::int64_t{48} * 1024 * 1024 / 2 / rotating);
    a_.reserve(a_size, 0.01F);
    b_.reserve(b_size * (s.rotates_c ? 1 : copies), 0.02F);
    c_.reserve(c_size * (s.rotates_c ? copies : 1), 0.0F);
    Best peak;
    std::vector<Best> best(backends_.size());
    std::int64_t turn = 0;
    for (int r = 0; r <= repetitions_; ++r) {
      time_once(peak, fma_loop);
      for (std::size_t i = 0; i < backends_.size(); ++i) {
        const std::int64_t copy = turn++ % copies;
        const float* b = b_.data() + (s.rotates_c ? 0 : copy * b_size);
        float* c = c_.data() + (s.rotates_c ? copy * c_size : 0);
        Best warm_up;
        time_once(r == 0 ? warm_up : best[i], [&] { backends_[i].run(s, a_.data(), b, c); });
      }
    }
    report(s, peak, best);
  }

 private:
  void report(const Shape& s, const Best& peak, const std::vector<Best>& best) const {
    const double peak_rate =
        2.0 * 24 * static_cast<double>(simd::kLanes<float>) * kFmaSteps * threads_ / (peak.cpu / threads_) * 1e-9;
    const double flops = 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
    for (std::size_t i = 0; i < backends_.size(); ++i) {
      if (best[i].cpu > 1e29) continue;
      const double rate = flops / (best[i].cpu / threads_) * 1e-9;
      fmt::print(R"({{"shape": "{}", "m": {}, "n": {}, "k": {}, "backend": "{}", "threads": {}, "gflops_cpu": {:.1f}, )"
                 R"("gflops_wall": {:.1f}, "share": {:.3f}}})"
                 "\n",
                 s.name, s.m, s.n, s.k, backends_[i].name, threads_, rate, flops / best[i].wall * 1e-9,
                 rate / peak_rate);
    }
    std::fflush(stdout);
  }

  int threads_, repetitions_;
  std::vector<Backend> backends_;
  Buffer a_, b_, c_;
#ifdef PLIMSOLL_HAVE_ONEDNN
  std::unique_ptr<PackedProduct> packed_;
  std::string packed_shape_;  // packed_ is made for it in the turn that warms up
#endif
};

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : omp_get_max_threads();
  if (threads < 1) {
    fmt::print(stderr, "usage: gemm_bench [threads] [repetitions] [name filter]\n");
    return 64;
  }
  plimsoll::Bench bench(threads, argc > 2 ? std::atoi(argv[2]) : 5);
  const std::string filter = argc > 3 ? argv[3] : "";
  for (const auto& shape : plimsoll::transformer_shapes()) {
    if (shape.name.find(filter) != std::string::npos) bench.run(shape);
  }
}
