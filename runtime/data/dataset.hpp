#pragma once
// Token files as an endless, shuffled, resumable sequence of training samples, and a finite one of validation samples.
//
// A sample is a window of sequence + 1 tokens: inputs are its first `sequence` tokens, targets its last. Window i of a
// split starts at token i · sequence of it: consecutive windows share one token, so that every token but the split's
// first is a target exactly once ("non-overlapping" refers to the targets).
//
// Training sample g belongs to epoch g / train_samples_per_epoch(). Within an epoch the sources are mixed evenly in
// proportion to their weights (not their sizes), and each source goes through its windows in an order shuffled anew
// each time it starts over. Everything is a pure function of (seed, g): no state, no rank; the one integer g resumes a
// run.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/data/config.hpp"
#include "runtime/data/token_file.hpp"

namespace plimsoll {

enum class Split { Train, Validation };

class Dataset {
 public:
  // Opens every file and checks all its ids: they must be below `vocabulary`. BadData when a split is too short (it
  // names file and sizes), Config when a value is out of range; MissingInput, BadData and Config as for TokenFile.
  Dataset(DataConfig config, std::uint64_t seed, std::int64_t vocabulary);

  std::int64_t sequence() const { return config_.sequence; }
  std::int64_t train_samples_per_epoch() const { return samples_per_epoch_; }
  std::int64_t validation_samples() const { return validation_samples_; }  // 0 when there is no validation
  std::int64_t train_tokens() const;                                       // of all sources, before weighting
  std::int64_t validation_tokens() const;

  // Where a sample lies: for messages, and for tests of the order.
  struct Window {
    std::size_t source;        // index into the sources of the split
    std::int64_t first_token;  // in the file of that source
    std::int64_t tokens;       // sequence + 1, or fewer for the last window of a validation source
  };
  Window train_window(std::int64_t global_index) const;
  Window validation_window(std::int64_t index) const;

  // Fill `out`, sequence + 1 ids. The last window of a validation source is filled up with −1. BadData for an id
  // outside of the vocabulary or a file that has shrunk. Allocate nothing; may be called from several threads.
  void train_sample(std::int64_t global_index, std::span<std::int32_t> out) const;
  void validation_sample(std::int64_t index, std::span<std::int32_t> out) const;

 private:
  // Tokens begin … end − 1 of a file, as windows.
  struct Part {
    std::shared_ptr<const TokenFile> file;  // a source's two splits share it
    std::int64_t begin;
    std::int64_t end;
    std::int64_t windows;
  };
  std::shared_ptr<const TokenFile> open_checked(const std::string& path) const;
  void add_train(std::shared_ptr<const TokenFile> file, std::int64_t end);
  void add_validation(std::shared_ptr<const TokenFile> file, std::int64_t begin);
  void read(const Part& part, const Window& window, std::span<std::int32_t> out) const;

  DataConfig config_;
  std::uint64_t seed_;
  std::int64_t vocabulary_;
  std::vector<Part> train_;
  std::vector<Part> validation_;
  std::vector<std::int64_t> quotas_;  // training samples per epoch of each source
  std::int64_t samples_per_epoch_ = 0;
  std::int64_t validation_samples_ = 0;
};

}  // namespace plimsoll
