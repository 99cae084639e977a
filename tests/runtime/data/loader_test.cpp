#include "runtime/data/loader.hpp"

#include <algorithm>
#include <memory>

#include "tests/runtime/data/data_test_support.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kVocabulary = 1 << 20;
constexpr std::int64_t kSequence = 8;

class LoaderTest : public DataTest {
 protected:
  std::unique_ptr<Dataset> make(std::int64_t tokens = 2000, std::int64_t vocabulary = kVocabulary) const {
    DataConfig config;
    config.train = {{write_tokens("a", tokens)}};
    config.sequence = kSequence;
    config.validation = 0.1;
    return std::make_unique<Dataset>(config, 3, vocabulary);
  }
  static LoaderOptions options(std::int64_t global_batch, int rank, int ranks, std::int64_t rows, std::int64_t step = 0,
                               Split split = Split::Train) {
    return {split, global_batch, rank, ranks, rows, step};
  }
  // The first tokens of the valid rows that all ranks get in a step, in rank order.
  static std::vector<std::int32_t> step_of(const Dataset& data, std::int64_t step, std::int64_t global_batch, int ranks,
                                           std::int64_t rows) {
    std::vector<std::int32_t> firsts;
    for (int rank = 0; rank < ranks; ++rank) {
      BatchLoader loader(data, options(global_batch, rank, ranks, rows, step));
      for (std::int64_t micro = 0; micro < loader.micro_batches(); ++micro) {
        const Batch& batch = loader.next();
        EXPECT_EQ(batch.step, step);
        EXPECT_EQ(batch.micro, micro);
        for (std::int64_t row = 0; row < batch.valid_rows; ++row) {
          firsts.push_back(batch.tokens[static_cast<std::size_t>(row * kSequence)]);
        }
      }
    }
    return firsts;
  }
};

TEST_F(LoaderTest, TargetsAreTheNextTokens) {
  const auto data = make();
  BatchLoader loader(*data, options(4, 0, 1, 4));
  const Batch& batch = loader.next();
  EXPECT_EQ(batch.valid_rows, 4);
  EXPECT_EQ(batch.valid_targets, 4 * kSequence);
  std::vector<std::int32_t> sample(kSequence + 1);
  data->train_sample(2, sample);
  for (std::size_t t = 0; t < kSequence; ++t) {
    EXPECT_EQ(batch.tokens[2 * kSequence + t], sample[t]);
    EXPECT_EQ(batch.targets[2 * kSequence + t], sample[t + 1]);
  }
}

TEST_F(LoaderTest, AGlobalBatchIsTheSameForAnyLayout) {
  const auto data = make();
  for (const std::int64_t step : {0, 5, 1000}) {
    const auto expected = step_of(*data, step, 12, 1, 12);
    ASSERT_EQ(expected.size(), 12U);
    for (const int ranks : {1, 2, 3, 4, 5}) {
      for (const std::int64_t rows : {1, 2, 3, 4, 5, 12}) {
        EXPECT_EQ(step_of(*data, step, 12, ranks, rows), expected) << ranks << " ranks, " << rows << " rows";
      }
    }
  }
}

TEST_F(LoaderTest, SharesThatAreGivenArePartsOfTheSameBatch) {
  const auto data = make();
  const auto expected = step_of(*data, 5, 12, 1, 12);
  for (const std::vector<std::int64_t>& shares : {std::vector<std::int64_t>{2, 8, 2}, {10, 2}, {4, 4, 4}}) {
    std::vector<std::int32_t> firsts;
    for (int rank = 0; rank < static_cast<int>(shares.size()); ++rank) {
      LoaderOptions o = options(12, rank, static_cast<int>(shares.size()), 2, 5);
      o.shares = shares;
      BatchLoader loader(*data, o);
      ASSERT_EQ(loader.micro_batches(), shares[static_cast<std::size_t>(rank)] / 2);
      for (std::int64_t micro = 0; micro < loader.micro_batches(); ++micro) {
        const Batch& batch = loader.next();
        EXPECT_EQ(batch.valid_rows, 2);
        EXPECT_EQ(batch.first_sample, 60 + static_cast<std::int64_t>(firsts.size()));
        for (std::size_t row = 0; row < 2; ++row) firsts.push_back(batch.tokens[row * kSequence]);
      }
      // The next step begins where a rank's own number of micro-batches ends.
      EXPECT_EQ(loader.next().step, 6);
    }
    EXPECT_EQ(firsts, expected);
  }
  LoaderOptions wrong = options(12, 0, 2, 2);
  wrong.shares = {6, 5};
  EXPECT_THROW(BatchLoader(*data, wrong), Error);
}

TEST_F(LoaderTest, ShortMicroBatchesArePadded) {
  const auto data = make();
  BatchLoader loader(*data, options(5, 0, 1, 3));
  ASSERT_EQ(loader.micro_batches(), 2);
  loader.next();
  const Batch& batch = loader.next();
  EXPECT_EQ(batch.first_sample, 3);
  EXPECT_EQ(batch.valid_rows, 2);
  EXPECT_EQ(batch.valid_targets, 2 * kSequence);
  for (std::size_t t = 0; t < kSequence; ++t) {
    EXPECT_EQ(batch.tokens[2 * kSequence + t], 0);
    EXPECT_EQ(batch.targets[2 * kSequence + t], -1);
  }
  // Uneven shares: five samples on two ranks, the same number of micro-batches on both.
  BatchLoader first(*data, options(5, 0, 2, 1));
  BatchLoader second(*data, options(5, 1, 2, 1));
  EXPECT_EQ(first.micro_batches(), 3);
  EXPECT_EQ(second.micro_batches(), 3);
  for (int micro = 0; micro < 3; ++micro) {
    EXPECT_EQ(first.next().valid_rows, micro < 2 ? 1 : 0);
    EXPECT_EQ(second.next().valid_rows, 1);
  }
}

TEST_F(LoaderTest, ResumesAtAStepAndRestarts) {
  const auto data = make(400);
  BatchLoader all(*data, options(6, 1, 2, 2));
  std::vector<Batch> batches;
  for (int i = 0; i < 60; ++i) batches.push_back(all.next());  // several epochs
  const auto expect_from = [&](BatchLoader& loader, std::size_t first) {
    for (std::size_t i = first; i < first + 5; ++i) {
      const Batch& batch = loader.next();
      ASSERT_EQ(batch.tokens, batches[i].tokens);
      ASSERT_EQ(batch.targets, batches[i].targets);
      ASSERT_EQ(batch.first_sample, batches[i].first_sample);
    }
  };
  BatchLoader resumed(*data, options(6, 1, 2, 2, 20));
  ASSERT_EQ(resumed.micro_batches(), 2);
  expect_from(resumed, 40);
  for (const std::int64_t step : {0, 7, 7, 25, 1}) {
    resumed.restart(step);
    expect_from(resumed, static_cast<std::size_t>(2 * step));
  }
}

TEST_F(LoaderTest, BuffersAreReusedAndTheHeldOneStays) {
  const auto data = make();
  BatchLoader loader(*data, options(2, 0, 1, 2));
  std::vector<const std::int32_t*> seen;
  for (int i = 0; i < 50; ++i) {
    const Batch& batch = loader.next();
    const Batch copy = batch;
    if (i % 10 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // time to overwrite it, were that possible
    EXPECT_EQ(batch.tokens, copy.tokens);
    seen.push_back(batch.tokens.data());
  }
  std::ranges::sort(seen);
  EXPECT_EQ(std::unique(seen.begin(), seen.end()) - seen.begin(), static_cast<std::ptrdiff_t>(BatchLoader::kBuffers));
}

TEST_F(LoaderTest, ValidationCoversTheSplitOnceOnAnyLayout) {
  const auto data = make(1003);
  for (const int ranks : {1, 2, 4}) {
    std::int64_t targets = 0;
    std::int64_t sum = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      BatchLoader loader(*data, options(6, rank, ranks, 2, 0, Split::Validation));
      for (std::int64_t i = 0; i < loader.steps() * loader.micro_batches(); ++i) {
        const Batch& batch = loader.next();
        targets += batch.valid_targets;
        for (const std::int32_t target : batch.targets) sum += std::max(target, 0);
        EXPECT_TRUE(std::ranges::all_of(batch.tokens, [](std::int32_t id) { return id >= 0; }));
      }
      expect_error(ErrorKind::Internal, {"last"}, [&] { loader.next(); });
    }
    EXPECT_EQ(targets, 100) << ranks;
    EXPECT_EQ(sum, (903 + 1002) * 100 / 2) << ranks;
  }
}

TEST_F(LoaderTest, ErrorsOfTheThreadReachTheCaller) {
  const auto data = make(2000);
  patch("a.bin", 4 * 1960, std::int32_t{1 << 25});  // after it was checked, in the validation part
  BatchLoader loader(*data, options(1, 0, 1, 1, 0, Split::Validation));
  std::int64_t good = 0;
  expect_error(ErrorKind::BadData, {"a.bin", "token 1960"}, [&] {
    while (true) {
      loader.next();
      ++good;
    }
  });
  EXPECT_EQ(good, 19) << "the batches before the bad one arrive";  // windows of 8 from token 1800, each reads 9
  EXPECT_THROW(loader.next(), Error);
  loader.restart(0);
  EXPECT_EQ(loader.next().first_sample, 0);
}

TEST_F(LoaderTest, FileShrinksDuringARun) {
  const auto data = make(20000);
  BatchLoader loader(*data, options(4, 0, 1, 4));
  loader.next();
  resize("a.bin", 100);
  expect_error(ErrorKind::BadData, {"a.bin", "100 now"}, [&] {
    for (int i = 0; i < 10; ++i) loader.next();
  });
}

TEST_F(LoaderTest, StopsWhateverTheThreadDoes) {
  const auto data = make();
  for (int i = 0; i < 100; ++i) {
    BatchLoader loader(*data, options(4, 0, 1, 4));
    for (int n = 0; n < i % 4; ++n) loader.next();
    if (i % 3 == 0) loader.restart(i);
  }
}

}  // namespace
}  // namespace plimsoll
