#include "runtime/data/dataset.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/error.hpp"
#include "runtime/data/order.hpp"

namespace plimsoll {
namespace {

void check_options(const DataConfig& o) {
  require(!o.train.empty(), ErrorKind::Config, "data: there is no training source");
  require(o.sequence >= 1, ErrorKind::Config, "data: a sequence of {} tokens; it needs at least 1", o.sequence);
  require(o.validation >= 0 && o.validation < 1, ErrorKind::Config, "data: validation is {}, it must be in [0, 1)",
          o.validation);
  for (const DataSource& source : o.train) {
    require(std::isfinite(source.weight) && source.weight > 0, ErrorKind::Config,
            "data: the weight of {} is {}, it must be above 0", source.path, source.weight);
  }
}

}  // namespace

Dataset::Dataset(DataConfig config, std::uint64_t seed, std::int64_t vocabulary)
    : config_(std::move(config)), seed_(seed), vocabulary_(vocabulary) {
  require(vocabulary >= 1, ErrorKind::Config, "data: a vocabulary of {} ids", vocabulary);
  check_options(config_);
  const bool separate = !config_.validation_files.empty();
  std::vector<double> weights;
  for (const DataSource& source : config_.train) {
    const auto file = open_checked(source.path);
    const std::int64_t tokens = file->tokens();
    const bool split = !separate && config_.validation > 0;
    const std::int64_t train_end =
        split ? static_cast<std::int64_t>(static_cast<double>(tokens) * (1 - config_.validation)) : tokens;
    if (split) add_validation(file, train_end);
    add_train(file, train_end);
    samples_per_epoch_ += train_.back().windows;
    weights.push_back(source.weight);
  }
  for (const std::string& path : config_.validation_files) {
    add_validation(open_checked(path), 0);
  }
  for (const Part& part : validation_) validation_samples_ += part.windows;
  quotas_ = proportional_shares(samples_per_epoch_, weights);
  for (std::size_t i = 0; i < quotas_.size(); ++i) {
    require(quotas_[i] > 0, ErrorKind::Config, "data: the weight of {} is so small that it gets none of {} samples",
            config_.train[i].path, samples_per_epoch_);
  }
}

std::shared_ptr<const TokenFile> Dataset::open_checked(const std::string& path) const {
  auto file = std::make_shared<const TokenFile>(TokenFile::open(path, config_.dtype, vocabulary_));
  file->check_ids(vocabulary_);
  return file;
}

void Dataset::add_train(std::shared_ptr<const TokenFile> file, std::int64_t end) {
  const std::int64_t windows = (end - 1) / config_.sequence;
  require(windows >= 1, ErrorKind::BadData,
          "{}: its training part has {} of {} tokens, one sample needs {} (sequence {} + 1)", file->path(), end,
          file->tokens(), config_.sequence + 1, config_.sequence);
  train_.push_back({std::move(file), 0, end, windows});
}

void Dataset::add_validation(std::shared_ptr<const TokenFile> file, std::int64_t begin) {
  const std::int64_t end = file->tokens();
  require(end - begin >= 2, ErrorKind::BadData,
          "{}: its validation part has {} of {} tokens, it needs at least 2; validation: 0 switches validation off",
          file->path(), end - begin, end);
  const std::int64_t windows = (end - begin - 1 + config_.sequence - 1) / config_.sequence;
  validation_.push_back({std::move(file), begin, end, windows});
}

std::int64_t Dataset::train_tokens() const {
  std::int64_t tokens = 0;
  for (const Part& part : train_) tokens += part.end - part.begin;
  return tokens;
}

std::int64_t Dataset::validation_tokens() const {
  std::int64_t tokens = 0;
  for (const Part& part : validation_) tokens += part.end - part.begin;
  return tokens;
}

Dataset::Window Dataset::train_window(std::int64_t global_index) const {
  require(global_index >= 0, ErrorKind::Internal, "training sample {} asked for", global_index);
  const std::int64_t epoch = global_index / samples_per_epoch_;
  const auto [source, index] = mixture_place(global_index % samples_per_epoch_, quotas_);
  const std::int64_t taken = epoch * quotas_[source] + index;  // samples of this source before this one
  const Part& part = train_[source];
  const KeyedPermutation order(part.windows, seed_, source, static_cast<std::uint64_t>(taken / part.windows));
  return {source, part.begin + order(taken % part.windows) * config_.sequence, config_.sequence + 1};
}

Dataset::Window Dataset::validation_window(std::int64_t index) const {
  require(index >= 0 && index < validation_samples_, ErrorKind::Internal, "validation sample {} of {} asked for", index,
          validation_samples_);
  std::size_t source = 0;
  for (; index >= validation_[source].windows; ++source) index -= validation_[source].windows;
  const Part& part = validation_[source];
  const std::int64_t first = part.begin + index * config_.sequence;
  return {source, first, std::min(config_.sequence + 1, part.end - first)};
}

void Dataset::read(const Part& part, const Window& window, std::span<std::int32_t> out) const {
  require(static_cast<std::int64_t>(out.size()) == config_.sequence + 1, ErrorKind::Internal,
          "a sample has {} tokens, the buffer {}", config_.sequence + 1, out.size());
  const auto tokens = static_cast<std::size_t>(window.tokens);
  part.file->read(window.first_token, out.first(tokens), vocabulary_);
  std::ranges::fill(out.subspan(tokens), -1);
}

void Dataset::train_sample(std::int64_t global_index, std::span<std::int32_t> out) const {
  const Window window = train_window(global_index);
  read(train_[window.source], window, out);
}

void Dataset::validation_sample(std::int64_t index, std::span<std::int32_t> out) const {
  const Window window = validation_window(index);
  read(validation_[window.source], window, out);
}

}  // namespace plimsoll
