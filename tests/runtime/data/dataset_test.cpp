#include "runtime/data/dataset.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "tests/runtime/data/data_test_support.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kVocabulary = 1 << 20;

class DatasetTest : public DataTest {
 protected:
  DataConfig config(const std::vector<DataSource>& sources, std::int64_t sequence = 10, double validation = 0.1) const {
    DataConfig c;
    c.train = sources;
    c.sequence = sequence;
    c.validation = validation;
    return c;
  }
  static std::vector<std::int32_t> train(const Dataset& data, std::int64_t index) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(data.sequence() + 1));
    data.train_sample(index, out);
    return out;
  }
  static std::vector<std::int32_t> validation(const Dataset& data, std::int64_t index) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(data.sequence() + 1));
    data.validation_sample(index, out);
    return out;
  }
};

// A token's id is its position, so a sample shows where it comes from.
TEST_F(DatasetTest, AnEpochHasEveryWindowOnce) {
  const Dataset data(config({{write_tokens("a", 1000)}}), 1, kVocabulary);
  EXPECT_EQ(data.train_tokens(), 900);
  EXPECT_EQ(data.validation_tokens(), 100);
  ASSERT_EQ(data.train_samples_per_epoch(), 89);  // 899 targets
  std::vector<std::vector<std::int32_t>> epochs;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int32_t> firsts;
    for (std::int64_t i = 0; i < 89; ++i) {
      const auto sample = train(data, epoch * 89 + i);
      for (std::size_t t = 0; t < sample.size(); ++t) ASSERT_EQ(sample[t], sample[0] + static_cast<std::int32_t>(t));
      ASSERT_LT(sample.back(), 900) << "training must not see validation";
      firsts.push_back(sample[0]);
    }
    epochs.push_back(firsts);
    std::ranges::sort(firsts);
    for (std::size_t i = 0; i < firsts.size(); ++i) ASSERT_EQ(firsts[i], static_cast<std::int32_t>(10 * i));
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST_F(DatasetTest, OneIntegerResumes) {
  const std::string prefix = write_tokens("a", 5000);
  const Dataset data(config({{prefix}}), 7, kVocabulary);
  const Dataset resumed(config({{prefix}}), 7, kVocabulary);
  const Dataset other_seed(config({{prefix}}), 8, kVocabulary);
  int same = 0;
  for (std::int64_t i = 2000; i > 0; i -= 37) {  // any order, any epoch
    EXPECT_EQ(train(data, i), train(resumed, i));
    same += train(data, i) == train(other_seed, i) ? 1 : 0;
  }
  EXPECT_LT(same, 5);
}

TEST_F(DatasetTest, ValidationPredictsEveryTokenOnce) {
  for (const std::int64_t tokens : {1000, 1009, 1010, 1011, 1020, 137}) {
    for (const std::int64_t sequence : {1, 7, 10, 500}) {
      const std::string prefix = write_tokens("a", tokens);
      DataConfig c = config({{prefix}}, sequence, 0.1);
      if (sequence == 500) {
        c.validation_files = {prefix};
        c.sequence = 100;
      }
      const Dataset data(c, 1, kVocabulary);
      const std::int64_t first = tokens - data.validation_tokens();
      EXPECT_EQ(first, sequence == 500 ? 0 : static_cast<std::int64_t>(static_cast<double>(tokens) * 0.9));
      std::int64_t expected = first + 1;
      for (std::int64_t i = 0; i < data.validation_samples(); ++i) {
        const auto sample = validation(data, i);
        for (std::size_t t = 1; t < sample.size(); ++t) {
          if (sample[t] < 0) continue;
          ASSERT_EQ(sample[t], expected++);
          ASSERT_EQ(sample[t - 1], sample[t] - 1);
        }
        ASSERT_GE(sample[1], 0) << "no window is empty";
      }
      EXPECT_EQ(expected, tokens);
    }
  }
}

TEST_F(DatasetTest, WeightsSetTheShares) {
  const std::vector<DataSource> sources{{write_tokens("a", 1001), 3.0}, {write_tokens("b", 5001), 1.0}};
  const Dataset data(config(sources, 10, 0), 1, kVocabulary);
  EXPECT_EQ(data.validation_samples(), 0);
  const std::int64_t epoch = data.train_samples_per_epoch();
  ASSERT_EQ(epoch, 600);
  std::map<std::size_t, std::map<std::int64_t, int>> visits;
  std::int64_t first_source = 0;
  for (std::int64_t g = 0; g < 4 * epoch; ++g) {
    const auto window = data.train_window(g);
    ++visits[window.source][window.first_token];
    first_source += window.source == 0 ? 1 : 0;
    ASSERT_NEAR(static_cast<double>(first_source), 0.75 * static_cast<double>(g + 1), 1.0);
  }
  // 1800 samples of a's 100 windows, 600 of b's 500: each visited as often as any other, give or take one.
  EXPECT_EQ(visits[0].size(), 100U);
  EXPECT_EQ(visits[1].size(), 500U);
  for (const auto& [token, count] : visits[0]) EXPECT_EQ(count, 18) << token;
  for (const auto& [token, count] : visits[1]) EXPECT_TRUE(count == 1 || count == 2) << token;
}

TEST_F(DatasetTest, ValidationGoesThroughAllFiles) {
  const Dataset data(config({{write_tokens("a", 1000), 1.0}, {write_tokens("b", 500), 9.0}}), 1, kVocabulary);
  ASSERT_EQ(data.validation_samples(), 10 + 5);
  EXPECT_EQ(validation(data, 0)[0], 900);
  EXPECT_EQ(validation(data, 10)[0], 450);
  EXPECT_EQ(data.validation_window(14).tokens, 10);
  EXPECT_THROW(data.validation_window(15), Error);
  EXPECT_THROW(data.train_window(-1), Error);
}

TEST_F(DatasetTest, ErrorsNameFileAndSizes) {
  const std::string prefix = write_tokens("a", 50);
  const auto wrong = [&](const DataConfig& c, const std::vector<std::string>& parts,
                         ErrorKind kind = ErrorKind::Config) {
    expect_error(kind, parts, [&] { Dataset(c, 1, kVocabulary); });
  };
  wrong(config({{prefix}}, 45), {"a.bin", "45 of 50 tokens", "needs 46"}, ErrorKind::BadData);
  wrong(config({{prefix}}, 10, 0.02), {"a.bin", "1 of 50 tokens", "validation: 0"}, ErrorKind::BadData);
  wrong(config({{prefix}}, 10, 1.0), {"validation is 1"});
  wrong(config({{prefix}}, 10, -0.1), {"validation is -0.1"});
  wrong(config({{prefix}}, 0), {"sequence of 0"});
  wrong(config({}), {"no training source"});
  wrong(config({{prefix, 0.0}}), {"weight", "a is 0"});
  wrong(config({{prefix, 1.0}, {prefix, 1e-9}}), {"weight", "small"});
  EXPECT_NO_THROW(Dataset(config({{prefix}}, 44), 1, kVocabulary));
  expect_error(ErrorKind::MissingInput, {"none"}, [&] { Dataset(config({{path("none")}}), 1, kVocabulary); });
}

TEST_F(DatasetTest, BadIdsAreFoundAtTheStart) {
  const std::string prefix = write_tokens("a", 1000);
  EXPECT_NO_THROW(Dataset(config({{prefix}}), 1, 1000));
  for (const auto& c : {config({{prefix}}), config({{prefix}}, 10, 0), config({{write_tokens("b", 900)}, {prefix}})}) {
    expect_error(ErrorKind::BadData, {"a.bin", "token 950", "byte 3800", "is 950", "vocabulary of 950"},
                 [&] { Dataset(c, 1, 950); });
  }
  DataConfig separate = config({{write_tokens("b", 900)}}, 10, 0);
  separate.validation_files = {prefix};
  expect_error(ErrorKind::BadData, {"a.bin", "token 950"}, [&] { Dataset(separate, 1, 950); });
}

TEST_F(DatasetTest, FilesThatChangeDuringARunAreFound) {
  const Dataset data(config({{write_tokens("a", 1000)}}), 1, 1000);
  patch("a.bin", 3800, std::int32_t{1000});
  for (std::int64_t i = 0; i < data.train_samples_per_epoch(); ++i) EXPECT_NO_THROW(train(data, i));
  expect_error(ErrorKind::BadData, {"a.bin", "token 950", "byte 3800", "is 1000"}, [&] { validation(data, 5); });
  resize("a.bin", 2000);
  expect_error(ErrorKind::BadData, {"a.bin", "4000 bytes", "2000 now"}, [&] { validation(data, 0); });
}

TEST_F(DatasetTest, RawFilesAreReadByWhatTheirIdsShow) {
  std::vector<std::uint32_t> ids(1000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint32_t>(i);
  write("raw.bin", {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(ids[0])});
  DataConfig c = config({{path("raw.bin")}});
  EXPECT_EQ(Dataset(c, 1, 1000).train_tokens(), 900);
  c.dtype = TokenType::Uint16;
  EXPECT_EQ(Dataset(c, 1, 1000).train_tokens(), 1800);
}

}  // namespace
}  // namespace plimsoll
