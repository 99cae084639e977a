// The configuration: names that people type, wrong files, overrides, and the round trip through YAML.

#include "launch/config.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "launch/config_checks.hpp"
#include "runtime/core/config_node.hpp"
#include "runtime/core/error.hpp"
#include "runtime/model/presets.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

const std::string kData = "data: {train: d}\n";

// The text of the Error(Config) that reading throws; empty when it throws none.
std::string faults(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse_config(yaml, "f", overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
    return error.what();
  }
  return {};
}

std::string rank_faults(Config config, int ranks) {
  try {
    check_for_ranks(config, ranks);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
    return error.what();
  }
  return {};
}

// The example of the documentation, with what this build can do.
constexpr const char* kExample = R"(model: {preset: gpt2-124m, layers: 6}
data: {train: data/kjv, validation: 0.05, sequence: 256}
train: {steps: 300, global_batch: 32, micro_batch: auto}
optimizer: {name: adamw, lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, clip: 1.0}
schedule: {name: cosine, warmup: 20, min_lr: 1e-4}
parallel: {data: auto, pipeline: 1, tensor: 1, zero: 0, sequence: auto, schedule: 1f1b}
memory: {budget: 1 GiB, recompute: auto}
comm: {transport: auto, bucket: auto}
precision: fp32
device: cpu
run: {dir: runs/demo, seed: 1, log_every: 1, eval_every: 100, save_every: 100, keep: 3}
)";

TEST(Config, ReadsTheExample) {
  const Config c = parse_config(kExample, "f");
  EXPECT_EQ(c.model.preset, "gpt2-124m");
  EXPECT_EQ(c.model.layers, 6);  // over the preset
  EXPECT_EQ(c.model.hidden, 768);
  EXPECT_EQ(c.model.vocabulary, 50257);
  ASSERT_EQ(c.data.train.size(), 1U);
  EXPECT_EQ(c.data.train[0].path, "data/kjv");
  EXPECT_EQ(c.train.steps, 300);
  EXPECT_FALSE(c.train.micro_batch);
  EXPECT_EQ(c.optimizer.lr, 1e-3);
  EXPECT_EQ(c.optimizer.betas[1], 0.95);
  EXPECT_EQ(c.schedule.name, ScheduleName::Cosine);
  EXPECT_EQ(c.schedule.warmup, 20);
  EXPECT_EQ(c.memory.budget, std::int64_t{1} << 30);
  EXPECT_EQ(c.memory.recompute, RecomputeMode::Auto);  // the plan chooses
  EXPECT_EQ(c.parallel.zero, 0);
  EXPECT_EQ(c.parallel.sequence, false);
  EXPECT_EQ(c.precision, DType::f32);
  EXPECT_EQ(c.run.dir, "runs/demo");
}

// People type these names and programs read them: they may grow, never change.
TEST(Config, KeyNamesAreFrozen) {
  const char* frozen[] = {"model.preset",
                          "model.from",
                          "model.family",
                          "model.layers",
                          "model.hidden",
                          "model.heads",
                          "model.kv_heads",
                          "model.head_dim",
                          "model.ffn",
                          "model.vocabulary",
                          "model.positions",
                          "model.activation",
                          "model.bias",
                          "model.tied",
                          "model.norm_eps",
                          "model.rope.theta",
                          "model.dropout",
                          "data.train",
                          "data.validation",
                          "data.sequence",
                          "train.steps",
                          "train.global_batch",
                          "train.micro_batch",
                          "optimizer.name",
                          "optimizer.lr",
                          "optimizer.betas",
                          "optimizer.eps",
                          "optimizer.weight_decay",
                          "optimizer.clip",
                          "optimizer.loss_scale.initial",
                          "optimizer.loss_scale.window",
                          "schedule.name",
                          "schedule.warmup",
                          "cuda.share",
                          "cuda.graphs",
                          "cuda.aware_mpi",
                          "cuda.epilogues",
                          "cuda.tf32",
                          "schedule.min_lr",
                          "parallel.data",
                          "parallel.pipeline",
                          "parallel.tensor",
                          "parallel.zero",
                          "parallel.shard",
                          "parallel.sequence",
                          "parallel.schedule",
                          "parallel.interleave",
                          "parallel.stages",
                          "parallel.tensor_chunks",
                          "comm.overlap",
                          "memory.budget",
                          "memory.logits",
                          "memory.recompute",
                          "memory.reserve",
                          "comm.transport",
                          "comm.bucket",
                          "comm.deadline",
                          "precision",
                          "device",
                          "run.dir",
                          "run.seed",
                          "run.log_every",
                          "run.eval_every",
                          "run.save_every",
                          "run.keep",
                          "plan.profile",
                          "parallel.shares",
                          "comm.prefetch",
                          "comm.hierarchical",
                          "parallel.state_shares",
                          "comm.gather",
                          "comm.pipeline_chunks"};
  std::set<std::string> names;
  const std::string text = describe_keys(false);
  for (const auto& row : nlohmann::json::parse(describe_keys(true))) {
    const std::string name = row.at("key");
    EXPECT_TRUE(names.insert(name).second) << name << " is listed twice";
    EXPECT_FALSE(row.at("meaning").get<std::string>().empty()) << name;
    EXPECT_FALSE(row.at("type").get<std::string>().empty()) << name;
    EXPECT_EQ(row.at("default") == "required", name == "data.train") << name;
    EXPECT_NE(text.find(name + ":"), std::string::npos) << name;
  }
  for (const char* name : frozen) EXPECT_TRUE(names.contains(name)) << name;
}

TEST(Config, WordsAreFrozen) {
  const std::pair<std::string, std::string> words[] = {
      {"model", "{family: gpt2}"},
      {"model", "{family: llama}"},
      {"schedule", "{name: constant}"},
      {"schedule", "{name: linear}"},
      {"schedule", "{name: cosine}"},
      {"schedule", "{name: wsd}"},
      {"parallel", "auto"},
      {"parallel", "{schedule: gpipe}"},
      {"parallel", "{schedule: 1f1b}"},
      {"parallel", "{schedule: zb-h1}"},
      {"parallel", "{schedule: interleaved}"},
      {"optimizer", "{name: sgd}"},
      {"comm", "{transport: self}"},
      {"comm", "{transport: mpi}"},
      {"memory", "{recompute: none}"},
      {"memory", "{recompute: offload}"},
      {"memory", "{host_budget: auto}"},
      {"precision", "fp64"},
      {"device", "cpu"},
      {"train", "{micro_batch: 4}"},
      {"run", "{trace: off}"},
      {"memory", "{budget: auto}"},
      {"parallel", "{shares: even}"},
      {"parallel", "{shares: auto}"},
      {"parallel", "{zero: 1, state_shares: even}"},
      {"parallel", "{zero: 1, state_shares: auto}"},
      {"memory", "{budget: [1 GiB, 2 GiB]}"},
  };
  for (const auto& [key, value] : words)
    EXPECT_EQ(faults(kData + key + ": " + value + "\n"), "") << key << ": " << value;
}

TEST(Config, AScheduleOfStagesWithoutStagesIsRefusedWhenTheRunStarts) {
  Config config = parse_config(kData + "parallel: {schedule: gpipe}\n", "f");
  try {
    check_for_ranks(config, 1);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "f:2:22: parallel.schedule: has no effect with pipeline: 1");
  }
}

TEST(Config, OnlyTheTrainingDataIsRequired) {
  EXPECT_EQ(faults(kData), "");
  EXPECT_EQ(faults(""), "f:1:1: data.train: is required: prefixes of .bin and .idx files");
}

struct Wrong {
  const char* yaml;   // after `data: {train: d}` in line 1, unless it holds "data:" itself
  const char* place;  // "line:column"
  const char* text;   // a part of the message
};
const Wrong kWrong[] = {
#include "tests/launch/wrong_configs.inc"
};

TEST(Config, WrongFilesAreNamedWithTheirPlace) {
  static_assert(std::size(kWrong) >= 60);
  for (const Wrong& wrong : kWrong) {
    const std::string yaml = (std::string(wrong.yaml).find("data:") == 0 ? "" : kData) + wrong.yaml;
    const std::string got = faults(yaml);
    EXPECT_TRUE(got.starts_with(std::string("f:") + wrong.place + ": ")) << yaml << "\n  " << got;
    EXPECT_NE(got.find(wrong.text), std::string::npos) << yaml << "\n  " << got;
    EXPECT_EQ(got.find('\n'), std::string::npos) << "one fault is reported as several: " << yaml << "\n  " << got;
  }
}

TEST(Config, AllFaultsAreReportedAtOnceInTheOrderOfTheFile) {
  EXPECT_EQ(faults("model: {layer: 6}\ndata: {train: d, sequence: x}\ntrain: {steps: -1}\nprecison: fp32\n",
                   {"optimizer.lr=fast"}),
            "f:1:9: unknown key 'layer' in 'model' (did you mean 'layers'?)\n"
            "f:2:28: data.sequence: expected an integer, got 'x'\n"
            "f:3:16: train.steps: -1 is out of range (1 to 1000000000000)\n"
            "f:4:1: unknown key 'precison' (did you mean 'precision'?)\n"
            "--set optimizer.lr=fast: optimizer.lr: expected a number, got 'fast'");
}

TEST(Config, ContradictionsAreNotDrawnFromUnreadableValues) {
  EXPECT_EQ(faults(kData + "train: {steps: x}\nschedule: {warmup: 400}\n"),
            "f:2:16: train.steps: expected an integer, got 'x'");
  EXPECT_EQ(faults("data: {train: d, sequence: 4096}\nmodel: {preset: lama-3-8b}\n"),
            "f:2:17: model.preset: 'lama-3-8b' is unknown (did you mean 'llama-3-8b'?)");
  EXPECT_EQ(faults(kData + "train: 5\nschedule: {warmup: 400}\n"), "f:2:8: train: expected a map of keys, got '5'");
}

TEST(Config, AFloodOfFaultsIsCut) {
  std::string yaml = kData;
  for (int i = 0; i < 5000; ++i) yaml += "unknown_key_" + std::to_string(i) + ": 1\n";
  const std::string got = faults(yaml);
  EXPECT_EQ(std::count(got.begin(), got.end(), '\n'), 100);
  EXPECT_TRUE(got.ends_with("and 4900 more faults"));
}

TEST(Config, OverridesLieOverTheFile) {
  const std::vector<std::string> sets{"memory.budget=2GiB", "model.layers=3",      "optimizer.betas=[0.8, 0.9]",
                                      "run.dir=runs/a=b",   "train.micro_batch=8", "train.micro_batch=4"};
  const Config c = parse_config(kExample, "f", sets);
  EXPECT_EQ(c.memory.budget, std::int64_t{2} << 30);
  EXPECT_EQ(c.model.layers, 3);
  EXPECT_EQ(c.optimizer.betas[0], 0.8);
  EXPECT_EQ(c.run.dir, "runs/a=b");
  EXPECT_EQ(c.train.micro_batch, 4);  // the last one counts
  EXPECT_EQ(faults(kExample, {"train.steps=10"}), "f:5:34: schedule.warmup: warmup 20 is above train.steps 10");
  EXPECT_EQ(faults(kExample, {"train.stps=10"}),
            "--set train.stps=10: unknown key 'stps' in 'train' (did you mean 'steps'?)");
  EXPECT_EQ(faults(kExample, {"train.steps"}), "--set train.steps: expected key=value, such as optimizer.lr=1e-4");
}

TEST(Config, RoundTrip) {
  const std::string cases[] = {
      kExample,
      kData,
      "data: {train: [a, {path: b, weight: 2.5}], validation: [v, w]}\nmodel: {preset: gpt2-124m}\nprecision: fp64\n",
      "data: {train: '0.05', validation: '7'}\nmodel: {family: llama, rope: {scaling: linear, factor: 2}}\n",
      "data: {train: 'auto', validation: 'a: b, [c] #d'}\nrun: {dir: \"null\", trace: ' x\\n\\\"y\\\" '}\n",
      "data: {train: 'ü→名'}\nrun: {dir: '~', seed: 18446744073709551615, poison: true, threads: 3}\n",
      kData +
          "optimizer: {name: sgd, momentum: 0.9, lr: 0.1234567890123456789}\nmemory: {budget: 1234567, reserve: 0}\n",
      kData +
          "schedule: {name: wsd, warmup: 10, decay_steps: 20}\nmemory: {recompute: [none, none]}\nmodel: {layers: 2}\n",
      kData + "parallel: {data: 4}\ncomm: {transport: mpi, bucket: 3 MiB}\ntrain: {eval_batches: 2, micro_batch: 2}\n",
  };
  for (const std::string& yaml : cases) {
    const Config once = parse_config(yaml, "f");
    const std::string text = dump_config(once);
    const Config twice = parse_config(text, "dump");
    EXPECT_TRUE(same_values(once, twice)) << yaml << "\n" << text;
    EXPECT_EQ(dump_config(twice), text);
  }
  EXPECT_FALSE(same_values(parse_config(kData, "f"), parse_config(kData + "device: cpu\nrun: {seed: 2}\n", "f")));
}

TEST(Config, ChoicesStandBehindTheirAuto) {
  const Config config = parse_config(kData, "f");
  const Choices choices{{"data.dtype", "uint16"}, {"model.rope.original_positions", "none"}, {"run.seed", "not auto"}};
  const std::string text = dump_config(config, choices);
  EXPECT_NE(text.find("\n  dtype: auto  # uint16\n"), std::string::npos) << text;
  EXPECT_NE(text.find("original_positions: auto}  # original_positions: none\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("not auto"), std::string::npos) << text;
  EXPECT_TRUE(same_values(config, parse_config(text, "dump")));
}

TEST(Config, EveryPresetCanBeConfigured) {
  for (const std::string& name : model_preset_names()) {
    const Config c = parse_config(kData + "model: {preset: " + name + "}\n", "f");
    EXPECT_EQ(c.model.preset, name);
    EXPECT_TRUE(same_values(c, parse_config(dump_config(c), "dump"))) << name;
  }
}

TEST(Config, ParameterCountsOfPublishedModels) {
  const std::pair<const char*, std::int64_t> counts[] = {{"gpt2-124m", 124439808},
                                                         {"gpt2-1558m", 1557611200},
                                                         {"llama-3-8b", 8030261248},
                                                         {"llama-3.2-1b", 1235814400},
                                                         {"qwen2.5-0.5b", 494032768}};
  for (const auto& [name, count] : counts) EXPECT_EQ(parameter_count(resolve(model_preset(name))), count) << name;
}

TEST(Config, RanksMustFitTheMesh) {
  Config c = parse_config(kData, "f");
  check_for_ranks(c, 4);
  EXPECT_EQ(c.parallel.data, 4);
  const Config two = parse_config(kData + "parallel: {data: 2}\n", "f");
  EXPECT_EQ(rank_faults(two, 2), "");
  EXPECT_EQ(rank_faults(two, 4),
            "f:2:18: parallel.data: data 2 * pipeline 1 * tensor 1 = 2 ranks, but there are 4 (mpirun -n N; --ranks N "
            "of plan "
            "and graph)");
  const Config tensor = parse_config(kData + "parallel: {tensor: 2}\n", "f");
  EXPECT_TRUE(rank_faults(tensor, 1).starts_with("f:2:20: parallel.tensor: data 1 * pipeline 1 * tensor 2 = 2 ranks"))
      << rank_faults(tensor, 1);
  const Config both = parse_config(kData + "parallel: {tensor: 2, pipeline: 2}\n", "f");
  EXPECT_TRUE(rank_faults(both, 6).starts_with("f:2:33: parallel.pipeline: ")) << rank_faults(both, 6);
  const Config self = parse_config(kData + "comm: {transport: self}\n", "f");
  EXPECT_EQ(rank_faults(self, 1), "");
  EXPECT_EQ(rank_faults(self, 2), "f:2:19: comm.transport: self is for one rank, but 2 were started");
}

TEST(Config, SharesOfTheStateAndBudgetsAreThoseOfTheShardAxis) {
  const auto with = [](const std::string& parallel, const std::string& budget) {
    return parse_config(kData + "parallel: {" + parallel + "}\nmemory: {budget: " + budget + "}\n", "f");
  };
  EXPECT_EQ(rank_faults(with("zero: 2, state_shares: [1, 3]", "[1 GiB, 512 MiB]"), 2), "");
  EXPECT_EQ(rank_faults(with("zero: 1, state_shares: [1, 3], shard: 2, tensor: 2", "[1 GiB, 2 GiB]"), 8), "");
  EXPECT_EQ(rank_faults(with("zero: 3, state_shares: auto", "auto"), 4), "");
  EXPECT_EQ(rank_faults(with("zero: 3, state_shares: even", "[1, 2]"), 2), "");
  EXPECT_EQ(rank_faults(with("zero: 1, state_shares: [1, 3]", "auto"), 4),
            "f:2:35: parallel.state_shares: 2 numbers for 4 ranks of the shard axis");
  EXPECT_EQ(rank_faults(with("zero: 1, shard: 2", "[1, 2, 3]"), 4),
            "f:3:18: memory.budget: 3 sizes for 2 ranks of the shard axis");
  const Config c = with("zero: 1, state_shares: [2, 5]", "[3 GiB, 2 GiB]");
  EXPECT_EQ(c.memory.budget, std::int64_t{2} << 30) << "the least";
  EXPECT_EQ(c.memory.budgets, (std::vector<std::int64_t>{std::int64_t{3} << 30, std::int64_t{2} << 30}));
  EXPECT_TRUE(same_values(parse_config(dump_config(c), "again"), c)) << dump_config(c);
}

TEST(Config, SharesAreThoseOfTheReplicasAndMakeTheBatch) {
  const auto with = [](const std::string& parallel, const std::string& train) {
    return parse_config(kData + "parallel: {" + parallel + "}\ntrain: {" + train + "}\n", "f");
  };
  EXPECT_EQ(rank_faults(with("shares: [1, 3]", "global_batch: 8, micro_batch: 2"), 2), "");
  EXPECT_EQ(rank_faults(with("shares: [1, 2]", "global_batch: 6"), 2), "") << "three micro-batches of two";
  EXPECT_EQ(rank_faults(with("shares: auto", "global_batch: 8"), 2), "");
  EXPECT_EQ(rank_faults(with("shares: [2, 2], zero: 3", "global_batch: 8"), 2), "") << "even";
  EXPECT_EQ(rank_faults(with("shares: [1, 3]", "global_batch: 8, micro_batch: 2"), 4),
            "f:2:20: parallel.shares: 2 numbers for 4 replicas");
  EXPECT_EQ(rank_faults(with("shares: [1, 3]", "global_batch: 8, micro_batch: 4"), 2),
            "f:2:20: parallel.shares: 4 micro-batches of 4 are 16 sequences, train.global_batch is 8");
  EXPECT_EQ(rank_faults(with("shares: [1, 2]", "global_batch: 8"), 2),
            "f:2:20: parallel.shares: global_batch 8 is not divisible by 3 micro-batches");
  EXPECT_NE(rank_faults(with("shares: [1, 3], pipeline: 2, schedule: interleaved", "global_batch: 4"), 4)
                .find("interleaved needs micro-batches that the 2 stages divide, not 1 per replica"),
            std::string::npos);
  for (const std::string shares : {"even", "auto", "[1, 3]"}) {
    const Config c = with("shares: " + shares, "global_batch: 8");
    EXPECT_TRUE(same_values(parse_config(dump_config(c), "again"), c)) << shares;
    EXPECT_NE(dump_config(c).find("shares: " + shares), std::string::npos) << dump_config(c);
  }
}

TEST(Config, BatchesMustDivide) {
  const Config automatic = parse_config(kData + "train: {global_batch: 32}\n", "f");
  EXPECT_EQ(rank_faults(automatic, 8), "");
  EXPECT_EQ(rank_faults(automatic, 3),
            "f:2:23: train.global_batch: global_batch 32 is not divisible by 3 replicas (nearest that is: 30 or 33)");
  const Config given = parse_config(kData + "train: {global_batch: 32, micro_batch: 8}\n", "f");
  EXPECT_EQ(rank_faults(given, 4), "");
  EXPECT_EQ(rank_faults(given, 3),
            "f:2:23: train.global_batch: global_batch 32 is not divisible by 3 replicas * "
            "micro_batch 8 = 24 (nearest that is: 24 or 48)");
  EXPECT_EQ(rank_faults(given, 8),
            "f:2:23: train.global_batch: global_batch 32 is not divisible by 8 replicas * "
            "micro_batch 8 = 64 (nearest that is: 64)");
}

TEST(Config, FilesAreNamedInErrors) {
  const test::TempFolder folder;
  const std::string path = (folder / "run.yaml").string();
  test::write_text(path, kData + "trin: {steps: 3}\n");
  try {
    load_config(path);
    FAIL() << "a wrong key was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    EXPECT_EQ(std::string(error.what()), path + ":2:1: unknown key 'trin' (did you mean 'train'?)");
  }
  try {
    load_config((folder / "absent.yaml").string());
    FAIL() << "a missing file was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::MissingInput);
  }
}

TEST(Config, Tf32ThatNothingRoundsToIsSaid) {
  const auto idle = [](const std::string& precision, const std::string& device) {
    Config config = parse_config(kData + "cuda: {tf32: true}\nprecision: " + precision, "f");
    config.device = device == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu;  // which not every build has
    return idle_text(config, 2);
  };
  EXPECT_EQ(idle("fp32", "cuda"), "");
  EXPECT_EQ(idle("bf16", "cuda"), "no effect without precision: fp32: cuda.tf32\n");
  EXPECT_EQ(idle("fp16", "cuda"), "no effect without precision: fp32: cuda.tf32\n");
  EXPECT_EQ(idle("bf16", "cpu"), "no effect with device: cpu: cuda.tf32\n") << "once";
}

TEST(Config, ModelsComeFromFolders) {
  const test::TempFolder folder;
  const std::string from = "model: {from: " + folder.path().string();
  test::write_text(folder / "config.json", R"({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4,
    "n_positions": 300, "vocab_size": 99, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})");
  const Config c = parse_config(kData + from + ", layers: 3}\n", "f");
  EXPECT_EQ(c.model.from, folder.path().string());
  EXPECT_EQ(c.model.layers, 3);  // over the folder
  EXPECT_EQ(c.model.hidden, 64);
  EXPECT_EQ(c.model.vocabulary, 99);
  EXPECT_TRUE(same_values(c, parse_config(dump_config(c), "dump")));
  EXPECT_NE(faults(kData + from + ", preset: gpt2-124m}\n").find("preset and from exclude each other"),
            std::string::npos);
  EXPECT_EQ(
      faults(kData + from + ", family: llama}\n"),
      fmt::format("f:2:{}: model.family: {} is not of the family 'llama'", from.size() + 11, folder.path().string()));
  EXPECT_NO_THROW(parse_config(kData + from + ", family: gpt2}\n", "f"));
  test::write_text(folder / "config.json", "{broken");
  EXPECT_TRUE(faults(kData + from + "}\n").starts_with("f:2:15: model.from: "));
}

}  // namespace
}  // namespace plimsoll
