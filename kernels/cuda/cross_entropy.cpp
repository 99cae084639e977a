#include "kernels/cuda/cross_entropy.hpp"

#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/product.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

using namespace cuda;
using Op = CrossEntropy;

// The workspace as the declaration lays it out, and what a chunk of rows does.
template <class T, bool tf32>
class Loss {
 public:
  explicit Loss(const KernelArgs& a)
      : rows(a.value[Op::kX].spec.rows()),
        chunk(a.attrs<Op>().rows_per_chunk(rows)),
        args_(a),
        hidden_(a.value[Op::kX].spec.last()),
        vocabulary_(a.value[Op::kWeight].spec.shape[0]) {
    constexpr std::int64_t kAlign = 64 / std::int64_t{sizeof(T)};
    const auto& attrs = a.attrs<Op>();
    padded_ = (vocabulary_ + kAlign - 1) / kAlign * kAlign;
    products_ = {a.workspace, product_workspace_bytes(a.threads)};
    reduction_ = a.workspace + products_.bytes;
    logits_ = reinterpret_cast<T*>(reduction_ + Op::reduction_bytes(attrs, chunk));
    losses_ = reinterpret_cast<double*>(logits_ + chunk * padded_);
    if (attrs.ranks == 1) return;
    sums_ = losses_;
    maxima_ = sums_ + 2 * chunk;
    losses_ = maxima_ + chunk;
  }

  // The losses of rows [first, first + count), and with `gradient` what follows from them.
  void run_chunk(std::int64_t first, std::int64_t count, bool gradient) const {
    Product p{.trans_b = true, .m = count, .n = vocabulary_, .k = hidden_};
    p.a = x(first);
    p.lda = hidden_;
    p.b = args_.value[Op::kWeight].data;
    p.ldb = hidden_;
    p.in = p.out = dtype_of<T>();
    p.c = logits_;
    p.ldc = padded_;
    p.tf32 = tf32;
    multiply(stream_of(args_), products_, p);
    softmax(first, count, gradient ? args_.inputs : nullptr);
    auto* loss = args_.v<double>(Op::kLoss);
    if (loss != nullptr)
      add_losses(stream_of(args_), losses_, targets(first), count, loss, first > 0 || args_.accumulates(Op::kLoss));
    if (!gradient) return;
    if (args_.grad[Op::kX]) input_gradient(first, count);
    if (args_.grad[Op::kWeight]) weight_gradient(first, count);
  }

  const std::int64_t rows, chunk;

 private:
  const T* x(std::int64_t first) const { return args_.v<const T>(Op::kX) + first * hidden_; }
  const std::int32_t* targets(std::int64_t first) const { return args_.v<const std::int32_t>(Op::kTargets) + first; }

  void softmax(std::int64_t first, std::int64_t count, const StepInputs* inputs) const {
    const auto& attrs = args_.attrs<Op>();
    const bool split = attrs.ranks > 1;
    const LogitRows<T> r{
        logits_,       count, vocabulary_, padded_, split ? attrs.valid_rows : vocabulary_, split ? attrs.first_row : 0,
        targets(first)};
    const cudaStream_t stream = stream_of(args_);
    if (!split) return row_losses(stream, r, inputs, losses_);
    row_maxima(stream, r, maxima_, sums_);
    args_.group->all_reduce({maxima_, {{count}, DType::f64}}, ReduceOp::Max, reduction_, args_.label);
    row_sums(stream, r, maxima_, sums_);
    args_.group->all_reduce({sums_, {{2 * count}, DType::f64}}, ReduceOp::Sum, reduction_, args_.label);
    finish_rows(stream, r, inputs, maxima_, sums_, losses_);
  }

  void input_gradient(std::int64_t first, std::int64_t count) const {
    Product p{.m = count, .n = hidden_, .k = vocabulary_};
    p.a = logits_;
    p.lda = padded_;
    p.b = args_.value[Op::kWeight].data;
    p.ldb = hidden_;
    p.in = p.out = dtype_of<T>();
    p.c = args_.g<T>(Op::kX) + first * hidden_;
    p.ldc = hidden_;
    p.accumulate = args_.accumulates(Op::kX);
    p.tf32 = tf32;
    multiply(stream_of(args_), products_, p);
  }

  void weight_gradient(std::int64_t first, std::int64_t count) const {
    Product p{.trans_a = true, .m = vocabulary_, .n = hidden_, .k = count};
    p.a = logits_;
    p.lda = padded_;
    p.b = x(first);
    p.ldb = hidden_;
    p.in = dtype_of<T>();
    p.c = args_.grad[Op::kWeight].data;
    p.ldc = hidden_;
    p.accumulate = first > 0 || args_.accumulates(Op::kWeight);
    p.tf32 = tf32;
    multiply(stream_of(args_), products_, p);
  }

  const KernelArgs& args_;
  std::int64_t hidden_, vocabulary_, padded_ = 0;
  ProductWorkspace products_;
  std::byte* reduction_ = nullptr;
  T* logits_ = nullptr;
  double *losses_ = nullptr, *sums_ = nullptr, *maxima_ = nullptr;  // the latter where the vocabulary is split
};

template <class T, bool tf32, bool gradient>
void cross_entropy(const KernelArgs& args) {
  const Loss<T, tf32> loss(args);
  for (std::int64_t first = 0; first < loss.rows; first += loss.chunk) {
    loss.run_chunk(first, std::min(loss.chunk, loss.rows - first), gradient);
  }
}

template <class T, bool tf32>
void add_for_type(KernelTable& table) {
  table.add<Op>(Phase::Forward, dtype_of<T>(), cross_entropy<T, tf32, false>);
  table.add<Op>(Phase::InputGrad, dtype_of<T>(), cross_entropy<T, tf32, true>);
}

}  // namespace

void add_cuda_cross_entropy_kernels(KernelTable& table, bool tf32) {
  if (tf32)
    add_for_type<float, true>(table);
  else
    add_for_type<float, false>(table);
  add_for_type<bf16, false>(table);
  add_for_type<f16, false>(table);
}

}  // namespace plimsoll
