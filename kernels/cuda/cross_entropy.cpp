#include "kernels/cuda/cross_entropy.hpp"

#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/product.hpp"
#include "kernels/cuda/register.hpp"
#include "kernels/loss_workspace.hpp"

namespace plimsoll {
namespace {

using namespace cuda;
using Op = CrossEntropy;

// What a chunk of rows does.
template <class T, bool tf32>
class Loss {
 public:
  explicit Loss(const KernelArgs& a) : at(a), args_(a), products_{a.workspace, product_workspace_bytes(a.threads)} {}

  // The losses of rows [first, first + count), and with `gradient` what follows from them.
  void run_chunk(std::int64_t first, std::int64_t count, bool gradient) const {
    Product p{.trans_b = true, .m = count, .n = at.vocabulary, .k = at.hidden};
    p.a = x(first);
    p.lda = at.hidden;
    p.b = args_.value[Op::kWeight].data;
    p.ldb = at.hidden;
    p.in = p.out = dtype_of<T>();
    p.c = at.logits;
    p.ldc = at.padded;
    p.tf32 = tf32;
    multiply(stream_of(args_), products_, p);
    softmax(first, count, gradient ? args_.inputs : nullptr);
    auto* loss = args_.v<double>(Op::kLoss);
    if (loss != nullptr)
      add_losses(stream_of(args_), at.losses, targets(first), count, loss, first > 0 || args_.accumulates(Op::kLoss));
    if (!gradient) return;
    if (args_.grad[Op::kX]) input_gradient(first, count);
    if (args_.grad[Op::kWeight]) weight_gradient(first, count);
  }

  const LossWorkspace<T> at;

 private:
  const T* x(std::int64_t first) const { return args_.v<const T>(Op::kX) + first * at.hidden; }
  const std::int32_t* targets(std::int64_t first) const { return args_.v<const std::int32_t>(Op::kTargets) + first; }

  void softmax(std::int64_t first, std::int64_t count, const StepInputs* inputs) const {
    const auto& attrs = args_.attrs<Op>();
    const bool split = attrs.ranks > 1;
    const LogitRows<T> r{at.logits,
                         count,
                         at.vocabulary,
                         at.padded,
                         split ? attrs.valid_rows : at.vocabulary,
                         split ? attrs.first_row : 0,
                         targets(first)};
    const cudaStream_t stream = stream_of(args_);
    if (!split) return row_losses(stream, r, inputs, at.losses);
    row_maxima(stream, r, at.maxima, at.sums);
    args_.group->all_reduce({at.maxima, {{count}, DType::f64}}, ReduceOp::Max, at.reduction, args_.site());
    row_sums(stream, r, at.maxima, at.sums);
    args_.group->all_reduce({at.sums, {{2 * count}, DType::f64}}, ReduceOp::Sum, at.reduction, args_.site());
    finish_rows(stream, r, inputs, at.maxima, at.sums, at.losses);
  }

  void input_gradient(std::int64_t first, std::int64_t count) const {
    Product p{.m = count, .n = at.hidden, .k = at.vocabulary};
    p.a = at.logits;
    p.lda = at.padded;
    p.b = args_.value[Op::kWeight].data;
    p.ldb = at.hidden;
    p.in = p.out = dtype_of<T>();
    p.c = args_.g<T>(Op::kX) + first * at.hidden;
    p.ldc = at.hidden;
    p.accumulate = args_.accumulates(Op::kX);
    p.tf32 = tf32;
    multiply(stream_of(args_), products_, p);
  }

  void weight_gradient(std::int64_t first, std::int64_t count) const {
    Product p{.trans_a = true, .m = at.vocabulary, .n = at.hidden, .k = count};
    p.a = at.logits;
    p.lda = at.padded;
    p.b = x(first);
    p.ldb = at.hidden;
    p.in = dtype_of<T>();
    p.c = args_.grad[Op::kWeight].data;
    p.ldc = at.hidden;
    p.accumulate = first > 0 || args_.accumulates(Op::kWeight);
    p.tf32 = tf32;
    multiply(stream_of(args_), products_, p);
  }

  const KernelArgs& args_;
  ProductWorkspace products_;
};

template <class T, bool tf32, bool gradient>
void cross_entropy(const KernelArgs& args) {
  const Loss<T, tf32> loss(args);
  for (std::int64_t first = 0; first < loss.at.rows; first += loss.at.chunk) {
    loss.run_chunk(first, std::min(loss.at.chunk, loss.at.rows - first), gradient);
  }
}

template <class T, bool tf32>
void add_for_type(KernelTable& table) {
  table.add<Op>(Phase::Forward, dtype_of<T>(), cross_entropy<T, tf32, false>);
  table.add<Op>(Phase::InputGrad, dtype_of<T>(), cross_entropy<T, tf32, true>);
}

}  // namespace

void add_cuda_cross_entropy_kernels(KernelTable& table, bool tf32) {
  for_each_product_type(tf32,
                        [&]<class T, bool kTf32>(T, std::bool_constant<kTf32>) { add_for_type<T, kTf32>(table); });
}

}  // namespace plimsoll
