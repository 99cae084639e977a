#include "runtime/data/loader.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

BatchLoader::BatchLoader(const Dataset& dataset, const LoaderOptions& options) : dataset_(dataset), options_(options) {
  const auto& o = options_;
  require(o.global_batch >= 1 && o.rows >= 1 && o.ranks >= 1 && o.rank >= 0 && o.rank < o.ranks && o.first_step >= 0,
          ErrorKind::Internal, "loader: global batch {}, rows {}, rank {} of {}, step {}", o.global_batch, o.rows,
          o.rank, o.ranks, o.first_step);
  const bool validation = o.split == Split::Validation;
  if (o.shares.empty()) {
    share_begin_ = o.global_batch * o.rank / o.ranks;
    share_end_ = o.global_batch * (o.rank + 1) / o.ranks;
    micro_batches_ = ceil_div(ceil_div(o.global_batch, o.ranks), o.rows);
  } else {
    const std::int64_t sum = std::accumulate(o.shares.begin(), o.shares.end(), std::int64_t{0});
    require(std::ssize(o.shares) == o.ranks && sum == o.global_batch, ErrorKind::Internal,
            "loader: {} shares of {} samples in all, for {} ranks and a global batch of {}", o.shares.size(), sum,
            o.ranks, o.global_batch);
    share_begin_ = std::accumulate(o.shares.begin(), o.shares.begin() + o.rank, std::int64_t{0});
    share_end_ = share_begin_ + o.shares[static_cast<std::size_t>(o.rank)];
    micro_batches_ = ceil_div(share_end_ - share_begin_, o.rows);
  }
  steps_ = validation ? ceil_div(dataset.validation_samples(), o.global_batch) : -1;
  const auto values = static_cast<std::size_t>(o.rows * dataset.sequence());
  for (Batch& batch : batches_) {
    batch.tokens.resize(values);
    batch.targets.resize(values);
  }
  sample_.resize(static_cast<std::size_t>(dataset.sequence() + 1));
  first_ticket_ = filled_ = taken_ = o.first_step * micro_batches_;
  thread_ = std::thread([this] { run(); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

const Batch& BatchLoader::next() {
  std::unique_lock lock(mutex_);
  require(steps_ < 0 || taken_ < steps_ * micro_batches_, ErrorKind::Internal,
          "loader: a validation batch after the last of {} steps was asked for", steps_);
  changed_.wait(lock, [this] { return filled_ > taken_ || error_; });
  if (filled_ == taken_) std::rethrow_exception(error_);
  const Batch& batch = batches_[static_cast<std::size_t>(taken_) % kBuffers];
  ++taken_;
  lock.unlock();
  changed_.notify_all();
  return batch;
}

void BatchLoader::restart(std::int64_t step) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !filling_; });
  first_ticket_ = filled_ = taken_ = step * micro_batches_;
  error_ = nullptr;
  lock.unlock();
  changed_.notify_all();
}

// The caller still holds the buffer of ticket taken_ − 1.
bool BatchLoader::may_fill() const {
  const std::int64_t held = std::max(taken_ - 1, first_ticket_);
  const bool more = steps_ < 0 || filled_ < steps_ * micro_batches_;
  return more && !error_ && filled_ - held < static_cast<std::int64_t>(kBuffers);
}

void BatchLoader::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || may_fill(); });
    if (stopping_) return;
    filling_ = true;
    const std::int64_t ticket = filled_;
    lock.unlock();
    std::exception_ptr error;
    try {
      fill(ticket, batches_[static_cast<std::size_t>(ticket) % kBuffers]);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    filling_ = false;
    error_ = error;
    if (!error) ++filled_;
    changed_.notify_all();
  }
}

void BatchLoader::fill(std::int64_t ticket, Batch& batch) {
  const bool train = options_.split == Split::Train;
  const std::int64_t sequence = dataset_.sequence();
  batch.step = ticket / micro_batches_;
  batch.micro = ticket % micro_batches_;
  const std::int64_t step_begin = batch.step * options_.global_batch;
  const std::int64_t first_row = share_begin_ + batch.micro * options_.rows;
  batch.first_sample = step_begin + first_row;
  std::int64_t end = step_begin + share_end_;
  if (!train) end = std::min(end, dataset_.validation_samples());
  batch.valid_rows = std::clamp<std::int64_t>(end - batch.first_sample, 0, options_.rows);
  batch.valid_targets = 0;
  for (std::int64_t row = 0; row < batch.valid_rows; ++row) {
    const std::int64_t sample = batch.first_sample + row;
    train ? dataset_.train_sample(sample, sample_) : dataset_.validation_sample(sample, sample_);
    const auto at = static_cast<std::size_t>(row * sequence);
    for (std::size_t t = 0; t < static_cast<std::size_t>(sequence); ++t) {
      batch.tokens[at + t] = std::max(sample_[t], 0);
      batch.targets[at + t] = sample_[t + 1];
      batch.valid_targets += sample_[t + 1] >= 0 ? 1 : 0;
    }
  }
  const auto padding = static_cast<std::ptrdiff_t>(batch.valid_rows * sequence);
  std::fill(batch.tokens.begin() + padding, batch.tokens.end(), 0);
  std::fill(batch.targets.begin() + padding, batch.targets.end(), -1);
}

}  // namespace plimsoll
