#include "runtime/ops/update.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/random.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

template <class T>
double sum_of_squares(const T* g, std::int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  return sum;
}

// One partial sum per block of kNormBlockElements of each segment, then the blocks of a segment, then the segments.
template <class T>
void square_sums(const KernelArgs& args) {
  const auto& segments = args.attrs<SquareSums>().segments;
  const T* gradients = args.v<T>(SquareSums::kGradients);
  auto* partials = reinterpret_cast<double*>(args.workspace);
  const auto blocks_of = [](const Segment& s) { return (s.elements + kNormBlockElements - 1) / kNormBlockElements; };
  // Threads take runs of segments' blocks; each finds its run by walking the list.
  const std::int64_t blocks = norm_blocks(segments);
  const std::int64_t runs = std::min<std::int64_t>(blocks, std::max(args.threads, 1));
  parallel_blocks(args.threads, runs, args.value[SquareSums::kGradients].spec.elements(), [&](std::int64_t run) {
    const std::int64_t begin = run * blocks / runs, end = (run + 1) * blocks / runs;
    std::int64_t block = 0;
    for (const Segment& s : segments) {
      for (std::int64_t b = 0; b < blocks_of(s); ++b, ++block) {
        if (block < begin || block >= end) continue;
        const std::int64_t from = b * kNormBlockElements;
        partials[block] = sum_of_squares(gradients + s.offset + from, std::min(kNormBlockElements, s.elements - from));
      }
    }
  });
  auto* sums = args.v<double>(SquareSums::kSums);
  std::fill_n(sums, args.value[SquareSums::kSums].spec.elements(), 0.0);
  const double* partial = partials;
  for (const Segment& s : segments) {
    double sum = 0;
    for (std::int64_t b = 0; b < blocks_of(s); ++b) sum += *partial++;
    sums[s.tensor] += sum;
  }
}

void global_norm(const KernelArgs& args) {
  const auto* sums = args.v<double>(GlobalNorm::kSums);
  double total = 0;
  for (std::int64_t i = 0; i < args.value[GlobalNorm::kSums].spec.elements(); ++i) total += sums[i];
  const double norm = std::sqrt(total) / static_cast<double>(args.inputs->loss_scale);
  args.v<double>(GlobalNorm::kNorm)[0] = norm;
  args.outputs->grad_norm = norm;
  args.outputs->found_inf = std::isfinite(norm) ? 0 : 1;
}

// What the gradient is multiplied by: 1 / loss scale, and clipping to the norm.
double gradient_factor(const KernelArgs& args, int norm_slot, double clip) {
  const double unscale = 1 / static_cast<double>(args.inputs->loss_scale);
  if (clip <= 0) return unscale;
  return unscale * std::min(1.0, clip / (args.v<double>(norm_slot)[0] + 1e-6));
}

// Calls body(begin, end, decays) for ranges whose elements all decay or all do not. Bounds do not depend on threads.
template <class F>
void update_ranges(int threads, std::int64_t n, std::span<const ElementRange> decays, F&& body) {
  parallel_elements(threads, n, [&](std::int64_t begin, std::int64_t end) {
    const auto ends_by = [](const ElementRange& r, std::int64_t at) { return r.first + r.count <= at; };
    for (auto r = std::lower_bound(decays.begin(), decays.end(), begin, ends_by); begin < end; ++r) {
      const std::int64_t first = r == decays.end() ? end : std::clamp(r->first, begin, end);
      const std::int64_t last = r == decays.end() ? end : std::clamp(r->first + r->count, begin, end);
      if (begin < first) body(begin, first, false);
      if (first < last) body(first, last, true);
      begin = last;
    }
  });
}

// The parameters [begin, end) in the dtype that other ops read, where that is another.
template <class T>
void round_parameters(const View& rounded, const T* parameters, std::int64_t begin, std::int64_t end) {
  if (!rounded) return;
  const auto store = [=](auto* out) {
    store_range(out, false, begin, end, [=](std::int64_t i) { return parameters[i]; });
  };
  if (rounded.spec.dtype == DType::bf16) return store(rounded.as<bf16>());
  if (rounded.spec.dtype == DType::f16) return store(rounded.as<f16>());
  fail(ErrorKind::Internal, "parameters are not rounded to {}", dtype_name(rounded.spec.dtype));
}

// Scalars are computed in double and rounded once, as PyTorch does.
template <class T>
void adamw(const KernelArgs& args) {
  if (args.outputs->found_inf != 0) return;
  const auto& a = args.attrs<AdamW>();
  const StepInputs& in = *args.inputs;
  const double lr = static_cast<double>(in.learning_rate);
  const T factor = static_cast<T>(gradient_factor(args, AdamW::kNorm, a.clip));
  const T shrink = static_cast<T>(1 - lr * a.weight_decay);
  const T take1 = static_cast<T>(1 - a.beta1), keep2 = static_cast<T>(a.beta2), take2 = static_cast<T>(1 - a.beta2);
  const T step = static_cast<T>(lr / static_cast<double>(in.bias_correction1));
  const T root = static_cast<T>(std::sqrt(static_cast<double>(in.bias_correction2))), eps = static_cast<T>(a.eps);
  const T* gradients = args.v<T>(AdamW::kGradients);
  T *parameters = args.v<T>(AdamW::kParameters), *first = args.v<T>(AdamW::kFirst), *second = args.v<T>(AdamW::kSecond);
  const std::int64_t n = args.value[AdamW::kParameters].spec.elements();
  const View& rounded = args.value[AdamW::kRounded];
  update_ranges(args.threads, n, a.decays, [=](std::int64_t begin, std::int64_t end, bool decays) {
    const T keep = decays ? shrink : T(1);
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const T g = gradients[i] * factor;
      const T m = first[i] + take1 * (g - first[i]);
      const T v = second[i] * keep2 + take2 * g * g;
      first[i] = m;
      second[i] = v;
      parameters[i] = parameters[i] * keep - step * (m / (std::sqrt(v) / root + eps));
    }
    round_parameters(rounded, parameters, begin, end);
  });
}

template <class T>
void sgd(const KernelArgs& args) {
  if (args.outputs->found_inf != 0) return;
  const auto& a = args.attrs<Sgd>();
  const T factor = static_cast<T>(gradient_factor(args, Sgd::kNorm, a.clip));
  const T decay = static_cast<T>(a.weight_decay), momentum = static_cast<T>(a.momentum);
  const T lr = static_cast<T>(args.inputs->learning_rate);
  const bool nesterov = a.nesterov;
  const T* gradients = args.v<T>(Sgd::kGradients);
  T *parameters = args.v<T>(Sgd::kParameters), *buffer = args.v<T>(Sgd::kMomentum);
  const std::int64_t n = args.value[Sgd::kParameters].spec.elements();
  const View& rounded = args.value[Sgd::kRounded];
  update_ranges(args.threads, n, a.decays, [=](std::int64_t begin, std::int64_t end, bool decays) {
    const T pull = decays ? decay : T(0);
    if (buffer == nullptr) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) parameters[i] -= lr * (gradients[i] * factor + pull * parameters[i]);
    } else {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const T g = gradients[i] * factor + pull * parameters[i];
        const T m = momentum * buffer[i] + g;
        buffer[i] = m;
        parameters[i] -= lr * (nesterov ? g + momentum * m : m);
      }
    }
    round_parameters(rounded, parameters, begin, end);
  });
}

// Elements [begin, end) of a segment, by runs that are neighbours in the tensor.
void round_range(const RoundSegment& s, std::int64_t begin, std::int64_t end, std::uint64_t seed, std::uint64_t update,
                 const float* weights, bf16* rounded) {
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t at = tensor_element(s, i);
    if (at < 0) {
      ++i;
      continue;
    }
    const std::int64_t in_row = s.at_column + s.part_columns - (s.first + i) % s.columns;
    const std::int64_t count = whole_rows(s) ? end - i : std::min(end - i, in_row);
    const std::uint64_t entry = rounding_entry(s.tensor_rows * s.tensor_columns, update, at);
    for_random_bits(seed, s.stream, entry, count, [&](std::int64_t done, const std::uint32_t* bits, std::int64_t n) {
      const float* from = weights + s.offset + i + done;
      bf16* to = rounded + s.offset + i + done;
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j)
        to[j].bits = round_stochastic(std::bit_cast<std::uint32_t>(from[j]), bits[j]);
    });
    i += count;
  }
}

void round_weights(const KernelArgs& args) {
  if (args.outputs->found_inf != 0) return;
  const auto* weights = args.v<const float>(RoundWeights::kWeights);
  auto* rounded = args.v<bf16>(RoundWeights::kRounded);
  const std::uint64_t seed = args.inputs->seed, update = args.inputs->updates + 1;
  for (const RoundSegment& s : args.attrs<RoundWeights>().segments) {
    parallel_elements(args.threads, s.elements, [&](std::int64_t begin, std::int64_t end) {
      round_range(s, begin, end, seed, update, weights, rounded);
    });
  }
}

void clear(const KernelArgs& args) {
  const View& x = args.value[Clear::kX];
  std::memset(x.data, 0, static_cast<std::size_t>(x.spec.bytes()));
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<SquareSums>(Phase::Update, dtype_of<T>(), square_sums<T>);
  table.add<AdamW>(Phase::Update, dtype_of<T>(), adamw<T>);
  table.add<Sgd>(Phase::Update, dtype_of<T>(), sgd<T>);
}

}  // namespace

void add_update_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  table.add<Clear>(Phase::Reduce, DType::f32, clear);  // of whatever dtype: an op without inputs computes in none
  table.add<GlobalNorm>(Phase::Update, DType::f64, global_norm);
  table.add<RoundWeights>(Phase::Update, DType::f32, round_weights);
}

}  // namespace plimsoll
