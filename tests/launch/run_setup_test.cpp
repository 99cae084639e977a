// What is found wrong when a configuration meets its data and its programs names file, line and column.

#include "launch/run_setup.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "launch/plan_report.hpp"
#include "launch/process.hpp"
#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_ranks.hpp"

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

// A batch of a billion rows: only those micro-batches are looked at that may be chosen.
TEST(RunSetup, LargeBatchesAreDividedWithoutCountingTheirRows) {
  const Config config = parse_config(
      "data: {train: d, sequence: 64}\nmodel: {layers: 1, hidden: 8, heads: 1, vocabulary: 50}\n"
      "train: {global_batch: 1073741824}\n",
      "run.yaml");
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(choose_programs(config, {}, Purpose::Train, 0, 0).micro_batch, 64);  // 4096 tokens
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST(RunSetup, RanksOfOneProcessShareItsCores) {
  const auto shares = on_ranks(3, [](const Group& g) { return std::to_string(cores_of_rank(g)); });
  const std::string even = std::to_string(usable_cores() / 3.0);
  EXPECT_EQ(shares, (std::vector<std::string>{even, even, even}));
}

TEST(RunSetup, ThreadsAreTheCoresOfTheRank) {
  Config config = parse_config("data: {train: d}\nmodel: {layers: 1, vocabulary: 50}\n", "run.yaml");
  EXPECT_EQ(choose_threads(config, {0, 4, 0, 4, 6}), 6);  // not divided again
  EXPECT_EQ(choose_threads(config, {0, 4096, 0, 4096}), 1);
  config.run.threads = 3;
  EXPECT_EQ(choose_threads(config, {0, 4, 0, 4, 6}), 3);
}

TEST(RunSetup, ReportsSayWhatIsMeasuredAndWhatIsAllowed) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.micro_batch = 4;
  const std::vector<RankRole> roles = rank_roles(o);
  PlanContext context;
  context.outside_bytes = kLibraryAllowanceBytes + 1000;
  context.outside_source = "measured";
  const auto shows = [&](const std::string& name, const std::string& bytes) {
    const std::string text = plan_text(roles, context, nullptr);
    const std::size_t at = text.find("\n  " + name);
    return at != std::string::npos &&
           text.substr(at + 1, text.find('\n', at + 1) - at).find(" " + bytes + " ") != std::string::npos;
  };
  EXPECT_TRUE(shows("outside (measured)", "1,000"));
  EXPECT_TRUE(shows("allowed to libraries", "67,108,864"));
  EXPECT_EQ(plan_json(roles, context)["outside_allowance_bytes"], kLibraryAllowanceBytes);
  ProgramOptions on_gpu = o;
  on_gpu.threads = kDeviceThreads;
  context.outside_bytes = kGpuAllowanceBytes + 1000;
  EXPECT_EQ(plan_json(rank_roles(on_gpu), context)["outside_allowance_bytes"], kGpuAllowanceBytes);
  context.outside_bytes = kLibraryAllowanceBytes + 1000;
  context.outside_source = "memory.reserve";
  EXPECT_TRUE(shows("outside (memory.reserve)", "67,109,864"));
  EXPECT_FALSE(shows("allowed to libraries", ""));
}

// The bytes of a plan do not depend on what kernels take: nothing is measured to find that none fits.
TEST(RunSetup, WhatCannotFitIsFoundWithoutCosts) {
  const TempFolder folder;
  const auto infeasible = [&](std::vector<std::string> settings, int ranks, std::int64_t budget) {
    Config config = tiny_config(folder, "run", settings);
    check_for_ranks(config, ranks);
    return find_infeasible(config, {0, ranks, 0, ranks}, Purpose::Train, budget, 0, kNoHostLimit);
  };
  for (const int ranks : {1, 2}) {
    for (const char* parallel : {"parallel={}", "parallel=auto"}) {
      for (const char* recompute : {"memory.recompute=auto", "memory.recompute=none"}) {
        const auto none = infeasible({parallel, recompute}, ranks, 1000);
        ASSERT_TRUE(none) << parallel << " " << recompute;
        EXPECT_NE(none->text.find("memory.budget is 1000 B"), std::string::npos) << none->text;
        EXPECT_FALSE(infeasible({parallel, recompute}, ranks, none->needed_bytes)) << parallel << " " << recompute;
        // Of a layout, what is needed is the least; of all layouts another may do with less.
        const bool one_layout = std::string(parallel) != "parallel=auto";
        const std::int64_t less = one_layout ? none->needed_bytes - 1 : none->needed_bytes / 4;
        EXPECT_TRUE(infeasible({parallel, recompute}, ranks, less)) << parallel << " " << recompute;
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll
