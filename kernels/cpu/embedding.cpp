#include "runtime/ops/embedding.hpp"

#include <cstring>

#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kRowsPerBlock = 8;
constexpr std::int64_t kColumnsPerBlock = 64;

// Which row of `weight` a token has: −1 when another rank has it.
struct Vocabulary {
  std::int64_t first, rows;
  Vocabulary(const KernelArgs& args, const View& table)
      : first(args.attrs<Embedding>().first_row), rows(table.spec.shape[0]) {}
  std::int64_t row(std::int32_t token) const {
    const std::int64_t r = token - first;
    return r >= 0 && r < rows ? r : -1;
  }
};

template <class T>
void embedding_forward(const KernelArgs& args) {
  using Op = Embedding;
  const auto* tokens = args.v<std::int32_t>(Op::kTokens);
  const T *weight = args.v<T>(Op::kWeight), *positions = args.v<T>(Op::kPositions);
  T* y = args.v<T>(Op::kY);
  const Shape& shape = args.value[Op::kY].spec.shape;
  const std::int64_t rows = shape[0] * shape[1], length = shape[1], h = shape[2];
  const std::int64_t first = positions != nullptr ? args.inputs->position : 0;
  const Vocabulary vocabulary(args, args.value[Op::kWeight]);
  parallel_blocks(args.threads, (rows + kRowsPerBlock - 1) / kRowsPerBlock, rows * h, [=](std::int64_t block) {
    const std::int64_t end = std::min(rows, (block + 1) * kRowsPerBlock);
    for (std::int64_t row = block * kRowsPerBlock; row < end; ++row) {
      const std::int64_t token = vocabulary.row(tokens[row]);
      const T* from = weight + token * h;
      T* to = y + row * h;
      if (token < 0) {
        std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(h) * sizeof(T));
      } else if (positions == nullptr) {
        std::memcpy(to, from, static_cast<std::size_t>(h) * sizeof(T));
      } else {
        const T* position = positions + (first + row % length) * h;
        store_range(to, false, 0, h, [=](std::int64_t i) { return widen(from[i]) + widen(position[i]); });
      }
    }
  });
}

// Each block of columns takes all tokens in order.
template <class T>
void scatter_tokens(const KernelArgs& args, const T* dy, Wide<T>* dweight, std::int64_t rows, std::int64_t h) {
  const auto* tokens = args.v<std::int32_t>(Embedding::kTokens);
  const std::int64_t blocks = (h + kColumnsPerBlock - 1) / kColumnsPerBlock;
  const Vocabulary vocabulary(args, args.grad[Embedding::kWeight]);
  parallel_blocks(args.threads, blocks, rows * h, [=](std::int64_t block) {
    const std::int64_t begin = block * kColumnsPerBlock, end = std::min(h, begin + kColumnsPerBlock);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t token = vocabulary.row(tokens[row]);
      if (token < 0) continue;
      const T* d = dy + row * h;
      store_range(dweight + token * h, true, begin, end, [=](std::int64_t i) { return widen(d[i]); });
    }
  });
}

// Rows of dpositions from `first` on.
template <class T>
void sum_over_batch(const KernelArgs& args, const T* dy, Wide<T>* dpositions, std::int64_t first, const Shape& shape) {
  const std::int64_t batch = shape[0], length = shape[1], h = shape[2];
  parallel_blocks(args.threads, length, batch * length * h, [=](std::int64_t t) {
    for (std::int64_t b = 0; b < batch; ++b) {
      const T* d = dy + (b * length + t) * h;
      store_range(dpositions + (first + t) * h, true, 0, h, [=](std::int64_t i) { return widen(d[i]); });
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
    auto* gradient = args.g<Wide<T>>(slot);
    if (!args.accumulates(slot)) parallel_zero(args.threads, gradient, args.grad[slot].spec.elements());
    if (slot == Op::kWeight) scatter_tokens(args, dy, gradient, shape[0] * shape[1], shape[2]);
    if (slot == Op::kPositions) sum_over_batch(args, dy, gradient, args.inputs->position, shape);
  }
}

template <class T>
void add_rows_forward(const KernelArgs& args) {
  using Op = AddRows;
  const auto& a = args.attrs<Op>();
  const T *x = args.v<T>(Op::kX), *table = args.v<T>(Op::kTable);
  T* y = args.v<T>(Op::kY);
  const Shape& shape = args.value[Op::kX].spec.shape;
  const std::int64_t rows = shape[0] * shape[1], length = shape[1], h = shape[2];
  const std::int64_t first = args.inputs->position + a.first_column;
  const bool positions = a.positions;
  parallel_blocks(args.threads, (rows + kRowsPerBlock - 1) / kRowsPerBlock, rows * h, [=](std::int64_t block) {
    const std::int64_t end = std::min(rows, (block + 1) * kRowsPerBlock);
    for (std::int64_t row = block * kRowsPerBlock; row < end; ++row) {
      const T *from = x + row * h, *addend = positions ? table + (first + row % length) * h : table;
      store_range(y + row * h, false, 0, h, [=](std::int64_t i) { return widen(from[i]) + widen(addend[i]); });
    }
  });
}

template <class T>
void add_rows_backward(const KernelArgs& args) {
  using Op = AddRows;
  if (without_gradient<Op>(args, Op::kY)) return;
  const auto& a = args.attrs<Op>();
  const T* dy = args.g<T>(Op::kY);
  const Shape& shape = args.grad[Op::kY].spec.shape;
  const std::int64_t rows = shape[0] * shape[1], h = shape[2];
  if (auto* table = args.g<Wide<T>>(Op::kTable); table != nullptr) {
    if (!args.accumulates(Op::kTable)) parallel_zero(args.threads, table, args.grad[Op::kTable].spec.elements());
    if (a.positions) {
      sum_over_batch(args, dy, table, args.inputs->position + a.first_column, shape);
    } else {
      parallel_blocks(args.threads, (h + kColumnsPerBlock - 1) / kColumnsPerBlock, rows * h, [=](std::int64_t block) {
        const std::int64_t begin = block * kColumnsPerBlock, end = std::min(h, begin + kColumnsPerBlock);
        for (std::int64_t row = 0; row < rows; ++row) {
          const T* d = dy + row * h;
          store_range(table, true, begin, end, [=](std::int64_t i) { return widen(d[i]); });
        }
      });
    }
  }
  T* dx = args.g<T>(Op::kX);
  const bool accumulate = args.accumulates(Op::kX);
  if (dx == nullptr || (dx == dy && !accumulate)) return;
  parallel_elements(args.threads, rows * h, [=](std::int64_t begin, std::int64_t end) {
    store_range(dx, accumulate, begin, end, [=](std::int64_t i) { return widen(dy[i]); });
  });
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<Embedding>(Phase::Forward, dtype_of<T>(), embedding_forward<T>);
  table.add<Embedding>(Phase::InputGrad, dtype_of<T>(), embedding_backward<T>);
  table.add<AddRows>(Phase::Forward, dtype_of<T>(), add_rows_forward<T>);
  table.add<AddRows>(Phase::InputGrad, dtype_of<T>(), add_rows_backward<T>);
}

}  // namespace

void add_embedding_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
}

}  // namespace plimsoll
