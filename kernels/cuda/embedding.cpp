#include "kernels/cuda/embedding.hpp"

#include "kernels/cuda/column_sums.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

VocabularyPart part_of(const KernelArgs& args, const View& table) {
  return {args.attrs<Embedding>().first_row, table.spec.shape[0]};
}

template <class T>
void embedding_forward(const KernelArgs& args) {
  using Op = Embedding;
  const Shape& shape = args.value[Op::kY].spec.shape;
  embed(stream_of(args), part_of(args, args.value[Op::kWeight]), args.v<const std::int32_t>(Op::kTokens),
        args.v<const T>(Op::kWeight), args.v<const T>(Op::kPositions), args.inputs, args.v<T>(Op::kY),
        shape[0] * shape[1], shape[1], shape[2]);
}

template <class T>
void embedding_backward(const KernelArgs& args) {
  using Op = Embedding;
  if (without_gradient<Op>(args, Op::kY)) return;
  const Shape& shape = args.grad[Op::kY].spec.shape;
  const T* dy = args.g<T>(Op::kY);
  for (const int slot : {Op::kWeight, Op::kPositions}) {
    if (!args.grad[slot]) continue;
    if (!args.accumulates(slot)) zero(args, args.grad[slot]);
    if (slot == Op::kWeight) {
      embed_gradient(stream_of(args), part_of(args, args.grad[slot]), args.v<const std::int32_t>(Op::kTokens), dy,
                     args.g<float>(slot), shape[0] * shape[1], shape[2]);
    } else {
      sum_over_batch(stream_of(args), dy, args.inputs, 0, args.g<float>(slot), shape[0], shape[1], shape[2]);
    }
  }
}

template <class T>
void add_rows_forward(const KernelArgs& args) {
  using Op = AddRows;
  const auto& a = args.attrs<Op>();
  const Shape& shape = args.value[Op::kX].spec.shape;
  add_rows(stream_of(args), args.v<const T>(Op::kX), args.v<const T>(Op::kTable), a.positions, args.inputs,
           a.first_column, args.v<T>(Op::kY), shape[0] * shape[1], shape[1], shape[2]);
}

template <class T>
void add_rows_backward(const KernelArgs& args) {
  using Op = AddRows;
  if (without_gradient<Op>(args, Op::kY)) return;
  const auto& a = args.attrs<Op>();
  const Shape& shape = args.grad[Op::kY].spec.shape;
  const std::int64_t rows = shape[0] * shape[1], h = shape[2];
  const T* dy = args.g<T>(Op::kY);
  const bool add_to_table = args.accumulates(Op::kTable);
  if (float* table = args.g<float>(Op::kTable); table != nullptr && a.positions) {
    if (!add_to_table) zero(args, args.grad[Op::kTable]);
    sum_over_batch(stream_of(args), dy, args.inputs, a.first_column, table, shape[0], shape[1], h);
  } else if (table != nullptr) {
    column_sums(stream_of(args), dy, rows, h, table, add_to_table);
  }
  T* dx = args.g<T>(Op::kX);
  const bool accumulate = args.accumulates(Op::kX);
  if (dx == nullptr || (dx == dy && !accumulate)) return;
  scale(stream_of(args), dy, dx, rows * h, 1.0F, accumulate);
}

}  // namespace

void add_cuda_embedding_kernels(KernelTable& table) {
  for_each_type([&]<class T>(T) {
    table.add<Embedding>(Phase::Forward, dtype_of<T>(), embedding_forward<T>);
    table.add<Embedding>(Phase::InputGrad, dtype_of<T>(), embedding_backward<T>);
    table.add<AddRows>(Phase::Forward, dtype_of<T>(), add_rows_forward<T>);
    table.add<AddRows>(Phase::InputGrad, dtype_of<T>(), add_rows_backward<T>);
  });
}

}  // namespace plimsoll
