#pragma once
// Softmax and loss of rows of logits, in place. T: float, bf16, f16.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// Rows of a chunk: logits [rows, vocabulary], `stride` elements from row to row. Of a vocabulary that is split over
// ranks the first `valid` columns here are those from `first` on; the rest counts nowhere.
template <class T>
struct LogitRows {
  T* logits = nullptr;
  std::int64_t rows = 0, vocabulary = 0, stride = 0, valid = 0, first = 0;
  const std::int32_t* targets = nullptr;  // −1: the row does not count
};

// losses[row] = −log softmax(logits)[target], 0 where it does not count. With `inputs`, logits become their gradient
// (softmax − onehot) · inputs->loss_seed.
template <class T>
void row_losses(cudaStream_t stream, const LogitRows<T>& rows, const StepInputs* inputs, double* losses);

// The same where each rank has a part, in three steps. maxima[row]: of the logits here; sums[2 · row + 1]: the logit of
// the target, 0 where it is not here. Then, with the maxima of all ranks, sums[2 · row] = Σ exp(logit − maximum).
template <class T>
void row_maxima(cudaStream_t stream, const LogitRows<T>& rows, double* maxima, double* sums);
template <class T>
void row_sums(cudaStream_t stream, const LogitRows<T>& rows, const double* maxima, double* sums);
// Then, with the sums of all ranks, as row_losses.
template <class T>
void finish_rows(cudaStream_t stream, const LogitRows<T>& rows, const StepInputs* inputs, const double* maxima,
                 const double* sums, double* losses);

// loss[0] (+)= Σ losses, loss[1] (+)= the rows that count.
void add_losses(cudaStream_t stream, const double* losses, const std::int32_t* targets, std::int64_t rows, double* loss,
                bool accumulate);

}  // namespace plimsoll::cuda
