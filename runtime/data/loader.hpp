#pragma once
// Prefetches the micro-batches of one rank on a thread of its own. Global batch s is samples s·G … s·G + G − 1; a data
// rank takes a contiguous share of it, cut into micro-batches of a fixed number of rows. Which rows a rank gets is a
// function of (step, micro-batch, rank, shares) alone; which samples a global batch has does not depend on ranks at
// all.

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/data/dataset.hpp"

namespace plimsoll {

struct LoaderOptions {
  Split split = Split::Train;
  std::int64_t global_batch = 1;  // G: samples of all ranks in a step
  int rank = 0;                   // of the data axis
  int ranks = 1;
  std::int64_t rows = 1;  // samples of a micro-batch
  std::int64_t first_step = 0;
  // Samples of each rank of the axis in a step, together global_batch; empty: as equal as they can be.
  std::vector<std::int64_t> shares = {};
};

struct Batch {
  std::int64_t step = 0;
  std::int64_t micro = 0;             // in [0, micro_batches)
  std::int64_t first_sample = 0;      // global index of row 0
  std::vector<std::int32_t> tokens;   // [rows, sequence]; 0 where there is no token
  std::vector<std::int32_t> targets;  // [rows, sequence]; −1 where there is nothing to predict
  std::int64_t valid_rows = 0;        // the rows after them are padding
  std::int64_t valid_targets = 0;     // targets that are not −1
};

class BatchLoader {
 public:
  static constexpr std::size_t kBuffers = 3;  // one with the caller, two ahead

  // `dataset` must outlive the loader. All buffers are allocated here.
  BatchLoader(const Dataset& dataset, const LoaderOptions& options);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The next micro-batch; valid until the following call. Waits for it if need be. An error of the thread (BadData) is
  // thrown here, in the place of the batch that it concerns. Past the last validation step it is Internal.
  const Batch& next();
  // Starts over at `step`, as a new loader would, without allocating.
  void restart(std::int64_t step);

  // Micro-batches per step: those of this rank's share where shares were given; otherwise the same on all ranks, and
  // where the batch does not divide, some are padding.
  std::int64_t micro_batches() const { return micro_batches_; }
  // Validation: steps that cover the split once. Train: endless, −1.
  std::int64_t steps() const { return steps_; }

 private:
  void run();
  void fill(std::int64_t ticket, Batch& batch);
  bool may_fill() const;

  const Dataset& dataset_;
  LoaderOptions options_;
  std::int64_t share_begin_;
  std::int64_t share_end_;
  std::int64_t micro_batches_;
  std::int64_t steps_;
  std::array<Batch, kBuffers> batches_;
  std::vector<std::int32_t> sample_;  // the thread's: sequence + 1 ids

  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t first_ticket_;  // a ticket is step · micro_batches + micro; ticket t lies in buffer t % kBuffers
  std::int64_t filled_;        // tickets below are filled
  std::int64_t taken_;         // tickets below were handed to the caller
  bool filling_ = false;
  bool stopping_ = false;
  std::exception_ptr error_;  // what happened to ticket filled_
  std::thread thread_;
};

}  // namespace plimsoll
