#include "runtime/ops/embedding.hpp"

#include <cstring>

#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kRowsPerBlock = 8;
constexpr std::int64_t kColumnsPerBlock = 64;

template <class T>
void embedding_forward(const KernelArgs& args) {
  using Op = Embedding;
  const auto* tokens = args.v<std::int32_t>(Op::kTokens);
  const T *weight = args.v<T>(Op::kWeight), *positions = args.v<T>(Op::kPositions);
  T* y = args.v<T>(Op::kY);
  const Shape& shape = args.value[Op::kY].spec.shape;
  const std::int64_t rows = shape[0] * shape[1], length = shape[1], h = shape[2];
  const std::int64_t first = positions != nullptr ? args.inputs->position : 0;
  parallel_blocks(args.threads, (rows + kRowsPerBlock - 1) / kRowsPerBlock, rows * h, [=](std::int64_t block) {
    const std::int64_t end = std::min(rows, (block + 1) * kRowsPerBlock);
    for (std::int64_t row = block * kRowsPerBlock; row < end; ++row) {
      const T* from = weight + tokens[row] * h;
      T* to = y + row * h;
      if (positions == nullptr) {
        std::memcpy(to, from, static_cast<std::size_t>(h) * sizeof(T));
      } else {
        const T* position = positions + (first + row % length) * h;
        store_range(to, false, 0, h, [=](std::int64_t i) { return from[i] + position[i]; });
      }
    }
  });
}

// Each block of columns takes all tokens in order.
template <class T>
void scatter_tokens(const KernelArgs& args, const T* dy, T* dweight, std::int64_t rows, std::int64_t h) {
  const auto* tokens = args.v<std::int32_t>(Embedding::kTokens);
  const std::int64_t blocks = (h + kColumnsPerBlock - 1) / kColumnsPerBlock;
  parallel_blocks(args.threads, blocks, rows * h, [=](std::int64_t block) {
    const std::int64_t begin = block * kColumnsPerBlock, end = std::min(h, begin + kColumnsPerBlock);
    for (std::int64_t row = 0; row < rows; ++row) {
      const T* d = dy + row * h;
      store_range(dweight + tokens[row] * h, true, begin, end, [=](std::int64_t i) { return d[i]; });
    }
  });
}

template <class T>
void sum_over_batch(const KernelArgs& args, const T* dy, T* dpositions, const Shape& shape) {
  const std::int64_t batch = shape[0], length = shape[1], h = shape[2], first = args.inputs->position;
  parallel_blocks(args.threads, length, batch * length * h, [=](std::int64_t t) {
    for (std::int64_t b = 0; b < batch; ++b) {
      const T* d = dy + (b * length + t) * h;
      store_range(dpositions + (first + t) * h, true, 0, h, [=](std::int64_t i) { return d[i]; });
    }
  });
}

template <class T>
void embedding_backward(const KernelArgs& args) {
  using Op = Embedding;
  if (without_gradient<Op>(args, Op::kY)) return;
  const T* dy = args.g<T>(Op::kY);
  const Shape& shape = args.grad[Op::kY].spec.shape;
  for (const int slot : {Op::kWeight, Op::kPositions}) {
    if (!args.grad[slot]) continue;
    if (!args.accumulates(slot)) parallel_zero(args.threads, args.g<T>(slot), args.grad[slot].spec.elements());
    if (slot == Op::kWeight) scatter_tokens(args, dy, args.g<T>(slot), shape[0] * shape[1], shape[2]);
    if (slot == Op::kPositions) sum_over_batch(args, dy, args.g<T>(slot), shape);
  }
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<Embedding>(Phase::Forward, dtype_of<T>(), embedding_forward<T>);
  table.add<Embedding>(Phase::InputGrad, dtype_of<T>(), embedding_backward<T>);
}

}  // namespace

void add_embedding_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
}

}  // namespace plimsoll
