// Recomputation and offload in whole runs: the memory that was planned, and no other bit.

#include <gtest/gtest.h>

#include "launch/cluster_file.hpp"
#include "launch/plan_file.hpp"
#include "launch/process.hpp"
#include "launch/recompute_report.hpp"
#include "launch/run_setup.hpp"
#include "tests/launch/quiet_run.hpp"

namespace plimsoll {
namespace {

using namespace test;
namespace fs = std::filesystem;

TEST(Training, RecomputationChangesMemoryAndNoBit) {
  const TempFolder folder;
  write_tiny_data(folder);
  const auto arena = [&](const std::string& run) {
    return nlohmann::json::parse(read_text(folder / run / "plan.json")).at("arena_bytes").get<std::int64_t>();
  };
  train_quietly(tiny_config(folder, "none", {"model.dropout=0.1"}));
  for (const auto& [run, mode] : {std::pair{"full", "full"},
                                  {"selective", "selective"},
                                  {"list", "[full, none]"},
                                  {"offload", "[offload, none]"}}) {
    SCOPED_TRACE(mode);
    train_quietly(tiny_config(folder, run, {"model.dropout=0.1", fmt::format("memory.recompute={}", mode)}));
    EXPECT_LT(arena(run), arena("none"));
    EXPECT_EQ(lasting_metrics(folder / run), lasting_metrics(folder / "none"));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      const std::string name = std::string("checkpoints/step_00000006/") + file;
      EXPECT_EQ(read_text(folder / run / name), read_text(folder / "none" / name)) << name;
    }
  }
}

// Whatever the budget leaves for activations: the same bits, in an arena that is what was planned and within the
// budget.
TEST(Training, AutomaticRecomputationKeepsTheBudgetAndEveryBit) {
  const TempFolder folder;
  write_tiny_data(folder);
  // More than any process of tests has, sanitized ones included.
  constexpr std::int64_t kReserve = std::int64_t{4} << 30;
  const std::vector<std::string> model{"model.layers=6", "model.dropout=0.1", "memory.reserve=4GiB",
                                       "run.save_every=6"};
  const auto run = [&](const std::string& name, std::int64_t budget) {
    std::vector<std::string> overrides = model;
    if (budget > 0) overrides.push_back(fmt::format("memory.budget={}B", budget));
    train_quietly(tiny_config(folder, name, overrides));
    return nlohmann::json::parse(read_text(folder / name / "plan.json"));
  };
  const nlohmann::json none = run("none", std::int64_t{5} << 30);
  EXPECT_TRUE(none["recompute"]["layers"].empty());
  EXPECT_NE(read_text(folder / "none/config.yaml").find("recompute: auto  # none"), std::string::npos);
  const std::int64_t arena = none["arena_bytes"], activations = none["class_bytes"]["activations"];
  for (const int percent : {100, 75, 50, 35, 25}) {
    SCOPED_TRACE(percent);
    const std::string name = fmt::format("at_{}", percent);
    const std::int64_t budget = kReserve + arena - activations + activations * percent / 100;
    const nlohmann::json plan = run(name, budget);
    EXPECT_EQ(plan["recompute"]["layers"].empty(), percent == 100);
    EXPECT_LE(plan["arena_bytes"].get<std::int64_t>() + kReserve, budget);
    const nlohmann::json rank = nlohmann::json::parse(read_text(folder / name / "summary.json"))["ranks"][0];
    EXPECT_EQ(rank["planned_bytes"], plan["arena_bytes"]);
    EXPECT_EQ(rank["arena_high_water_bytes"], rank["planned_bytes"]);
    for (const auto& [c, bytes] : rank["measured_minus_planned_bytes"].items()) EXPECT_EQ(bytes, 0) << c;
    EXPECT_EQ(lasting_metrics(folder / name), lasting_metrics(folder / "none"));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      const std::string path = std::string("checkpoints/step_00000006/") + file;
      EXPECT_EQ(read_text(folder / name / path), read_text(folder / "none" / path)) << path;
    }
    if (percent == 100) continue;
    const std::string line = plan["recompute"]["yaml"];
    EXPECT_NE(read_text(folder / name / "config.yaml").find("recompute: auto  # " + line), std::string::npos);
    // A later start goes on with it, also where more is free.
    std::vector<std::string> overrides = model;
    overrides.emplace_back("memory.budget=5GiB");
    Config config = tiny_config(folder, name, overrides);
    keep_plan_choices(config, 1);
    EXPECT_EQ(choose_programs(config, {}, Purpose::Train, *config.memory.budget, kReserve).recompute,
              read_recompute_line(line, "plan.json"));
    // And plans anew where it no longer fits.
    const ProgramOptions anew = choose_programs(config, {}, Purpose::Train, plan["arena_bytes"].get<std::int64_t>(), 1);
    EXPECT_LT(planned_bytes(anew), plan["arena_bytes"].get<std::int64_t>());
  }
}

// Below the least of all that keeps the order of sums: a run in blocks of rows, which ends where the others do but for
// rounding.
TEST(Training, AutomaticRowSplitsKeepTheBudgetBelowTheOldFloor) {
  const TempFolder folder;
  write_tiny_data(folder);
  constexpr std::int64_t kReserve = std::int64_t{4} << 30;  // sanitizers take much
  const std::vector<std::string> model{"model.ffn=768", "model.dropout=0.1", "memory.reserve=4GiB", "run.save_every=6"};
  const auto settings = [&](const std::string& more) {
    std::vector<std::string> all = model;
    all.push_back(more);
    return all;
  };
  const auto plan_of_run = [&](const std::string& name) {
    return nlohmann::json::parse(read_text(folder / name / "plan.json"));
  };
  train_quietly(tiny_config(folder, "full", settings("memory.recompute=full")));
  Config whole = tiny_config(folder, "whole", model);
  whole.memory.row_splits = false;
  const std::int64_t floor = planned_bytes(choose_programs(whole, {}, Purpose::Train, 1000, 0));
  ASSERT_LE(floor, plan_of_run("full")["arena_bytes"].get<std::int64_t>());
  const std::int64_t budget = kReserve + floor - 1;
  train_quietly(tiny_config(folder, "split", settings(fmt::format("memory.budget={}B", budget))));
  const nlohmann::json plan = plan_of_run("split");
  EXPECT_LE(plan["arena_bytes"].get<std::int64_t>() + kReserve, budget);
  EXPECT_NE(plan["recompute"]["yaml"].get<std::string>().find("rows: "), std::string::npos) << plan["recompute"];
  const nlohmann::json rank = nlohmann::json::parse(read_text(folder / "split/summary.json"))["ranks"][0];
  EXPECT_EQ(rank["arena_high_water_bytes"], plan["arena_bytes"]);
  const auto loss = [&](const std::string& name) {
    return nlohmann::json::parse(read_text(folder / name / "summary.json"))["loss"].get<double>();
  };
  EXPECT_NEAR(loss("split"), loss("full"), 1e-5);
  // It is followed and resumed as it is.
  Config config = tiny_config(folder, "split", settings("memory.budget=5GiB"));
  keep_plan_choices(config, 1);
  EXPECT_EQ(choose_programs(config, {}, Purpose::Train, *config.memory.budget, kReserve).recompute,
            read_recompute_line(plan["recompute"]["yaml"], "plan.json"));
}

// The same where values may wait in host memory, which is planned to the byte too.
TEST(Training, AutomaticOffloadKeepsBothBudgetsAndEveryBit) {
  const TempFolder folder;
  write_tiny_data(folder);
  ClusterDescription fast;
  fast.device.host = {1e-8, 1e12};
  std::ofstream(folder / "fast.yaml") << write_cluster(fast, "");
  const auto run = [&](const std::string& name, std::int64_t budget, const std::vector<std::string>& more) {
    std::vector<std::string> overrides{"model.layers=6",
                                       "model.dropout=0.1",
                                       "memory.reserve=4GiB",
                                       "run.save_every=6",
                                       "comm.cluster=" + (folder / "fast.yaml").string(),
                                       fmt::format("memory.budget={}B", budget)};
    overrides.insert(overrides.end(), more.begin(), more.end());
    train_quietly(tiny_config(folder, name, overrides));
    return nlohmann::json::parse(read_text(folder / name / "plan.json"));
  };
  const nlohmann::json none = run("none", std::int64_t{5} << 30, {});
  const std::int64_t arena = none["arena_bytes"], activations = none["class_bytes"]["activations"];
  const std::int64_t budget = (std::int64_t{4} << 30) + arena - activations / 2;
  EXPECT_EQ(run("alone", budget, {})["host_arena_bytes"], 0) << "nobody gave a host budget";
  const std::int64_t enough = std::int64_t{1} << 20;
  std::int64_t host = 0;
  for (const std::int64_t most : {enough, std::int64_t{0}}) {
    SCOPED_TRACE(most);
    const std::int64_t host_budget = most > 0 ? most : host - 1;
    const std::string name = fmt::format("within_{}", host_budget);
    const nlohmann::json plan = run(name, budget, {fmt::format("memory.host_budget={}B", host_budget)});
    EXPECT_LE(plan["arena_bytes"].get<std::int64_t>() + (std::int64_t{4} << 30), budget);
    host = plan["host_arena_bytes"];
    EXPECT_LE(host, host_budget);
    EXPECT_EQ(plan["recompute"].contains("offloaded"), host > 0);
    if (most > 0) {
      ASSERT_GT(host, 0);
    }
    const nlohmann::json rank = nlohmann::json::parse(read_text(folder / name / "summary.json"))["ranks"][0];
    EXPECT_EQ(rank["arena_high_water_bytes"], plan["arena_bytes"]);
    EXPECT_EQ(rank["host_high_water_bytes"], host);
    for (const auto& [c, bytes] : rank["measured_minus_planned_bytes"].items()) EXPECT_EQ(bytes, 0) << c;
    EXPECT_EQ(lasting_metrics(folder / name), lasting_metrics(folder / "none"));
    const std::string model = "checkpoints/step_00000006/model.safetensors";
    EXPECT_EQ(read_text(folder / name / model), read_text(folder / "none" / model));
    // A later start goes on with what plan.json says.
    Config config = tiny_config(folder, name, {"model.layers=6", "model.dropout=0.1", "memory.budget=5GiB"});
    keep_plan_choices(config, 1);
    EXPECT_EQ(choose_programs(config, {}, Purpose::Train, *config.memory.budget, std::int64_t{4} << 30).recompute,
              read_recompute_line(plan["recompute"]["yaml"], "plan.json"));
  }
}

// What is there at start is measured also where somebody said how much it may be, and grows after it.
TEST(Training, AReserveThatIsTooSmallIsRefusedAtStart) {
  const TempFolder folder;
  write_tiny_data(folder);
  for (const std::int64_t reserve : {std::int64_t{1} << 20, current_rss_bytes() + kLibraryAllowanceBytes / 4}) {
    SCOPED_TRACE(reserve);
    try {
      train_quietly(tiny_config(folder, "run", {fmt::format("memory.reserve={}", reserve), "memory.budget=8GiB"}));
      ADD_FAILURE() << "is enough";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
      for (const char* part : {"memory.reserve: is ", "but what a rank has outside the arena", " bytes): ", "auto"})
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in\n" << error.what();
    }
  }
  EXPECT_FALSE(fs::exists(folder / "run"));
}

// A configuration is for any number of ranks, so what has an effect on several of them only is said and not refused.
TEST(Training, WhatHasNoEffectOnOneRankOrOnTheCpuIsSaid) {
  const TempFolder folder;
  write_tiny_data(folder);
  const std::string said = train_quietly(tiny_config(folder, "run",
                                                     {"comm.bucket=1MiB", "cuda.tf32=true", "cuda.graphs=off",
                                                      "cuda.aware_mpi=off", "cuda.epilogues=off", "train.steps=2"}));
  EXPECT_NE(said.find("no effect with device: cpu: cuda.graphs, cuda.aware_mpi, cuda.epilogues, cuda.tf32\n"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("no effect with one replica, which sums no gradients and gathers no parameters: comm.bucket\n"),
            std::string::npos)
      << said;
  EXPECT_EQ(train_quietly(tiny_config(folder, "plain", {"train.steps=2"})).find("no effect"), std::string::npos);
}

// Host memory has a limit and a report of its own.
TEST(Training, OffloadStaysWithinTheHostBudget) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run", {"memory.recompute=offload", "memory.host_budget=1MiB"}));
  const auto rank = nlohmann::json::parse(read_text(folder / "run/summary.json")).at("ranks").at(0);
  const auto host = rank.at("host_planned_bytes").get<std::int64_t>();
  EXPECT_GT(host, 0);
  EXPECT_LE(rank.at("offloaded"), host);
  EXPECT_EQ(rank.at("host_high_water_bytes"), host);
  EXPECT_EQ(rank.at("host_budget_bytes"), 1 << 20);
  EXPECT_EQ(rank.at("arena_high_water_bytes"), rank.at("planned_bytes"));
  EXPECT_GT(rank.at("measured_class_bytes").at("offloaded"), 0);
  for (const auto& [c, bytes] : rank.at("measured_minus_planned_bytes").items()) EXPECT_EQ(bytes, 0) << c;
  try {
    train_quietly(
        tiny_config(folder, "less", {"memory.recompute=offload", fmt::format("memory.host_budget={}", host - 1)}));
    FAIL() << "the run fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
    for (const char* part :
         {"memory.host_budget is", "largest:", "mlp.up.pre.host (layer 0)", "--set memory.host_budget="})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in\n" << error.what();
  }
  EXPECT_FALSE(fs::exists(folder / "less"));
  // micro_batch: auto takes what the host budget allows.
  train_quietly(tiny_config(
      folder, "auto",
      {"memory.recompute=offload", fmt::format("memory.host_budget={}", host - 1), "train.micro_batch=auto"}));
  const auto plan = nlohmann::json::parse(read_text(folder / "auto/plan.json"));
  EXPECT_EQ(plan.at("micro_batch"), 1);
  EXPECT_LT(plan.at("host_arena_bytes"), host);
}

}  // namespace
}  // namespace plimsoll
