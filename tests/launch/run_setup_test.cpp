// What is found wrong when a configuration meets its data and its programs names file, line and column.

#include "launch/run_setup.hpp"

#include <gtest/gtest.h>

#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

std::string fault_of(ErrorKind kind, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "";
}

TEST(RunSetup, DataThatAreNotThereAreNoFaultOfTheVocabulary) {
  const TempFolder folder;
  write_tiny_data(folder);  // without a tokenizer
  const auto fault = [&](ErrorKind kind, const std::string& train) {
    Config config = tiny_config(folder, "run", {"model.vocabulary=auto", "data.train=" + train});
    return fault_of(kind, [&] { complete_vocabulary(config, data_tokenizer(config).get()); });
  };
  const std::string absent = (folder / "nodata").string(), present = (folder / "text").string();
  EXPECT_TRUE(fault(ErrorKind::MissingInput, absent).starts_with(absent + ".bin: cannot be opened"));
  EXPECT_TRUE(fault(ErrorKind::MissingInput, "[" + present + ", " + absent + "]")
                  .starts_with(absent + ".bin: cannot be opened"));
  for (const std::string& path : {present, present + ".bin", present + ".idx"})
    EXPECT_NE(fault(ErrorKind::Config, path).find("model.vocabulary: is auto, but the data"), std::string::npos)
        << path;
}

TEST(RunSetup, DataOfDifferentTokenizersAreNamedWithTheirPlace) {
  const TempFolder folder;
  make_byte_tokenizer()->save((folder / "a").string());
  make_char_tokenizer({U'x'})->save((folder / "b").string());
  const std::string yaml =
      fmt::format("model: {{preset: gpt2-124m}}\ndata:\n  train: [{0}/a, {0}/b]\n", folder.path().string());
  const Config config = parse_config(yaml, "run.yaml");
  EXPECT_EQ(fault_of(ErrorKind::Config, [&] { data_tokenizer(config); }),
            fmt::format("run.yaml:3:10: data.train: {0}/a and {0}/b were made with different tokenizers",
                        folder.path().string()));
}

TEST(RunSetup, ValuesThatALayerDoesNotHaveAreNamedWithTheirPlace) {
  for (const std::string parallel : {"{pipeline: 1}", "{pipeline: 2}"}) {
    const std::string yaml = "data: {train: d}\nmodel: {layers: 2, vocabulary: 50}\nparallel: " + parallel +
                             "\nmemory: {recompute: [none, {keep: [bogus]}]}\n";
    Config config = parse_config(yaml, "run.yaml");
    const int ranks = static_cast<int>(config.parallel.pipeline);
    check_for_ranks(config, ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::string fault = fault_of(ErrorKind::Config, [&] {
        choose_programs(config, {rank, ranks, rank, ranks}, Purpose::Train, 0, 0);
      });
      EXPECT_TRUE(fault.starts_with("run.yaml:4:21: memory.recompute: ")) << fault;
      EXPECT_NE(fault.find("bogus"), std::string::npos) << fault;
    }
  }
}

}  // namespace
}  // namespace plimsoll
