// What a run computes and what it leaves on disk.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "comm/group.hpp"
#include "launch/allocation_counter.hpp"
#include "launch/plan_file.hpp"
#include "launch/run_setup.hpp"
#include "launch/tensorboard.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "tests/launch/quiet_run.hpp"

namespace plimsoll {
namespace {

using namespace test;
namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

TEST(Training, ResumedRunIsBitwiseTheUninterruptedOne) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "whole"));
  fs::copy(folder / "whole", folder / "resumed", fs::copy_options::recursive);
  ASSERT_EQ(fs::remove_all(folder / "resumed/checkpoints/step_00000006") > 0, true);
  train_quietly(tiny_config(folder, "resumed"));
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    const std::string name = std::string("checkpoints/step_00000006/") + file;
    ASSERT_TRUE(fs::exists(folder / "whole" / name)) << name;
    EXPECT_EQ(read_text(folder / "whole" / name), read_text(folder / "resumed" / name)) << name;
  }
  EXPECT_EQ(lasting_metrics(folder / "whole"), lasting_metrics(folder / "resumed"));
  EXPECT_NE(read_text(folder / "whole/checkpoints/step_00000003/model.safetensors"),
            read_text(folder / "whole/checkpoints/step_00000006/model.safetensors"));
}

// What is free when a run is resumed must not change its bits.
TEST(Training, ResumedRunKeepsWhatItsPlanChose) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run"));
  Config config = tiny_config(folder, "run");
  config.train.micro_batch.reset();
  Config other_ranks = config, fresh = config;
  fresh.run.dir = (folder / "fresh").string();
  keep_plan_choices(config, 1);
  EXPECT_EQ(config.train.micro_batch, 2);
  EXPECT_EQ(config.memory.logits, kLogitsBytes);
  keep_plan_choices(other_ranks, 2);
  EXPECT_EQ(other_ranks.train.micro_batch, std::nullopt);
  keep_plan_choices(fresh, 1);
  EXPECT_EQ(fresh.train.micro_batch, std::nullopt);
}

TEST(Training, RunDirectoryHoldsWhatTheDesignNames) {
  const TempFolder folder;
  write_tiny_data(folder);
  const Config config = tiny_config(folder, "run");
  train_quietly(config);
  std::set<std::string> names = names_in(folder / "run");
  for (const char* name : {"config.yaml", "plan.json", "metrics.jsonl", "summary.json", "checkpoints"})
    EXPECT_EQ(names.erase(name), 1U) << name;
  ASSERT_EQ(names.size(), 1U);
  EXPECT_TRUE(names.begin()->starts_with("events.out.tfevents."));
  EXPECT_EQ(names_in(folder / "run/checkpoints"), (std::set<std::string>{"latest", "step_00000003", "step_00000006"}));
  Config again = load_config((folder / "run/config.yaml").string());
  EXPECT_EQ(again.train, config.train);
  EXPECT_EQ(again.run, config.run);
  EXPECT_TRUE(nlohmann::json::parse(read_text(folder / "run/plan.json")).is_object());
}

TEST(Training, MetricsAndSummaryHaveTheFrozenKeys) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run"));
  const std::vector<std::string> step_keys{"step",    "tokens",       "loss",         "lr", "grad_norm",
                                           "step_ms", "tokens_per_s", "model_gflops", "mfu"};
  std::int64_t steps = 0, evaluations = 0;
  for (const auto& line : metric_lines(folder / "run")) {
    std::vector<std::string> keys;
    for (const auto& item : line.items()) keys.push_back(item.key());
    if (line.contains("validation_loss")) {
      ++evaluations;
      EXPECT_EQ(keys, (std::vector<std::string>{"step", "validation_loss"}));
    } else {
      EXPECT_EQ(keys, step_keys);
      EXPECT_EQ(line["step"], ++steps);
      EXPECT_EQ(line["tokens"], steps * 256);
    }
  }
  EXPECT_EQ(steps, 6);
  EXPECT_EQ(evaluations, 2);

  const auto summary = nlohmann::json::parse(read_text(folder / "run/summary.json"));
  for (const std::string& key : step_keys) EXPECT_TRUE(summary.contains(key)) << key;
  EXPECT_TRUE(summary.contains("validation_loss"));
  ASSERT_EQ(summary["ranks"].size(), 1U);
  const auto& rank = summary["ranks"][0];
  for (const char* key : {"budget_bytes",
                          "planned_bytes",
                          "arena_high_water_bytes",
                          "outside_arena_bytes",
                          "peak_process_bytes",
                          "allocations_after_first_step",
                          "collective_bytes",
                          "collective_bytes_per_step",
                          "parameters",
                          "gradients",
                          "optimizer",
                          "activations",
                          "transients",
                          "communication",
                          "workspace",
                          "kv_cache",
                          "staging",
                          "offloaded",
                          "measured_class_bytes",
                          "measured_minus_planned_bytes",
                          "over_budget_bytes",
                          "host_budget_bytes",
                          "host_planned_bytes",
                          "host_high_water_bytes"}) {
    EXPECT_TRUE(rank.contains(key)) << key;
  }
  EXPECT_TRUE(rank["collective_bytes"].contains("data"));
  EXPECT_EQ(rank["arena_high_water_bytes"], rank["planned_bytes"]);
  for (const auto& [name, bytes] : rank["measured_minus_planned_bytes"].items()) EXPECT_EQ(bytes, 0) << name;
  EXPECT_GT(rank["measured_class_bytes"]["activations"], 0);
  EXPECT_EQ(rank["allocations_after_first_step"], 0);
  EXPECT_GT(summary["predicted_step_ms"], 0);
  EXPECT_GT(summary["measured_step_ms"], 0);
  for (const char* part : {"forward", "backward", "update"}) {
    EXPECT_GT(rank["predicted_ms"][part], 0) << part;
    EXPECT_GT(rank["measured_ms"][part], 0) << part;
  }
  EXPECT_EQ(rank["measured_ms"]["recompute"], 0) << "nodes of the CPU are timed one by one";
  // Two micro-batches and an update: kernels are what a step is made of.
  const auto& parts = rank["measured_ms"];
  const double kernels =
      2 * (parts["forward"].get<double>() + parts["backward"].get<double>()) + parts["update"].get<double>();
  EXPECT_LT(kernels, 6 * summary["measured_step_ms"].get<double>());
}

std::uint32_t word_at(const std::string& text, std::size_t at) {
  std::uint32_t word = 0;
  std::memcpy(&word, text.data() + at, sizeof(word));
  return word;
}

// TFRecord: u64 length, masked crc of it, data, masked crc of them.
void expect_crc(const std::string& text, std::size_t from, std::size_t count) {
  const std::uint32_t crc = crc32c(std::string_view(text).substr(from, count));
  EXPECT_EQ(word_at(text, from + count), ((crc >> 15) | (crc << 17)) + 0xA282EAD8U);
}

// A field of a protobuf message as it is on the wire: a number, or what has a length.
struct WireField {
  std::uint64_t number = 0, value = 0;
  std::string_view bytes;
};

std::uint64_t take_number(std::string_view& text, int bytes) {
  std::uint64_t number = 0;
  std::memcpy(&number, text.data(), static_cast<std::size_t>(bytes));
  text.remove_prefix(static_cast<std::size_t>(bytes));
  return number;
}

std::uint64_t take_varint(std::string_view& text) {
  std::uint64_t number = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(text.at(0));
    text.remove_prefix(1);
    number |= std::uint64_t{byte & 0x7FU} << shift;
    if (byte < 0x80) return number;
  }
}

std::vector<WireField> wire_fields(std::string_view text) {
  std::vector<WireField> fields;
  while (!text.empty()) {
    const std::uint64_t key = take_varint(text);
    WireField field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0: field.value = take_varint(text); break;
      case 1: field.value = take_number(text, 8); break;
      case 5: field.value = take_number(text, 4); break;
      case 2:
        field.value = take_varint(text);
        field.bytes = text.substr(0, field.value);
        text.remove_prefix(field.value);
        break;
      default: throw std::runtime_error("no wire type of scalars");
    }
    fields.push_back(field);
  }
  return fields;
}

std::string_view only_bytes(std::string_view message, std::uint64_t number) {
  std::string_view found;
  for (const WireField& f : wire_fields(message))
    if (f.number == number) found = f.bytes;
  return found;
}

// Of an Event (tensorflow/core/util/event.proto): step is field 2, summary 5; of that, value is 1; of that, tag is 1
// and simple_value 2.
struct Scalar {
  std::int64_t step = 0;
  std::string tag;
  float value = 0;
  auto operator<=>(const Scalar&) const = default;
};

Scalar scalar_of(std::string_view event) {
  Scalar scalar;
  for (const WireField& f : wire_fields(event))
    if (f.number == 2) scalar.step = static_cast<std::int64_t>(f.value);
  const std::string_view value = only_bytes(only_bytes(event, 5), 1);
  scalar.tag = only_bytes(value, 1);
  for (const WireField& f : wire_fields(value))
    if (f.number == 2) scalar.value = std::bit_cast<float>(static_cast<std::uint32_t>(f.value));
  return scalar;
}

TEST(Training, EventsFileSaysWhatMetricsSay) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run"));
  std::string text;
  for (const std::string& name : names_in(folder / "run")) {
    if (name.starts_with("events")) text = read_text(folder / "run" / name);
  }
  std::vector<std::string> records;
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t length = 0;
    ASSERT_LE(at + 12, text.size());
    std::memcpy(&length, text.data() + at, sizeof(length));
    ASSERT_LE(at + 16 + length, text.size());
    expect_crc(text, at, 8);
    expect_crc(text, at + 12, length);
    records.push_back(text.substr(at + 12, length));
    at += 16 + length;
  }
  ASSERT_EQ(records.size(), 1 + 6 * 5 + 2U);  // version, five scalars a step, two evaluations
  EXPECT_EQ(only_bytes(records[0], 3), "brain.Event:2");
  std::vector<Scalar> written, expected;
  for (std::size_t r = 1; r < records.size(); ++r) written.push_back(scalar_of(records[r]));
  for (const nlohmann::ordered_json& line : metric_lines(folder / "run")) {
    const auto expect = [&](const std::string& tag, const char* key) {
      if (line.contains(key)) expected.push_back({line["step"], tag, line[key].get<float>()});
    };
    for (const char* key : {"loss", "lr", "grad_norm", "tokens_per_s", "mfu"}) expect(std::string("train/") + key, key);
    expect("validation/loss", "validation_loss");
  }
  std::sort(written.begin(), written.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(written.size(), expected.size());
  for (std::size_t i = 0; i < std::min(written.size(), expected.size()); ++i)
    EXPECT_EQ(written[i], expected[i]) << "step " << expected[i].step << ": " << expected[i].tag << " is "
                                       << expected[i].value << " in metrics.jsonl, " << written[i].value << " here";
}

TEST(Training, FinishedRunSaysSo) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run"));
  const std::string before = read_text(folder / "run/metrics.jsonl");
  EXPECT_NE(train_quietly(tiny_config(folder, "run")).find("is finished"), std::string::npos);
  EXPECT_EQ(read_text(folder / "run/metrics.jsonl"), before);
}

TEST(Training, CheckpointOfAnotherRunIsRefusedByTheKeysThatDiffer) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run"));
  const std::vector<std::pair<std::vector<std::string>, std::vector<std::string>>> others{
      {{"model.layers=3"}, {"model.layers: 2 in the checkpoint, 3 now"}},
      {{"data.validation=0.2", "run.seed=9"}, {"data.validation: 0.1 in the checkpoint, 0.2 now", "run.seed: 3 in"}},
      {{fmt::format("data.train=[{{path: {0}/text, weight: 2}}, {{path: {0}/text, weight: 1}}]",
                    folder.path().string())},
       {"data.train: text.bin ("}},
  };
  for (const auto& [overrides, parts] : others) {
    const std::string before = read_text(folder / "run/config.yaml");
    try {
      train_quietly(tiny_config(folder, "run", overrides));
      FAIL() << "resumed with " << overrides.front();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
      for (const std::string& part : parts)
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_EQ(read_text(folder / "run/config.yaml"), before);
  }
}

TEST(Training, HyperParametersMayChangeAtACheckpointAndThatIsSaid) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run"));
  testing::internal::CaptureStderr();
  train_quietly(tiny_config(folder, "run", {"optimizer.lr=0.001", "train.steps=7"}));
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("optimizer.lr: 0.003 in the checkpoint, 0.001 now"), std::string::npos) << said;
  EXPECT_NE(said.find("train.steps: 6 in the checkpoint, 7 now"), std::string::npos) << said;
}

TEST(Training, ConfigurationOfARunSaysWhatWasChosenAndStaysAutomatic) {
  const TempFolder folder;
  write_tiny_data(folder);
  train_quietly(tiny_config(folder, "run", {"train.micro_batch=auto"}));
  const std::string text = read_text(folder / "run/config.yaml");
  for (const char* line :
       {"  micro_batch: auto  # 4", "  data: auto  # 1", "  transport: auto  # self", "  reserve: auto  # "})
    EXPECT_NE(text.find(line), std::string::npos) << line << " in\n" << text;
  Config again = load_config((folder / "run/config.yaml").string());
  EXPECT_EQ(again.train.micro_batch, std::nullopt);
  check_for_ranks(again, 4);
  EXPECT_EQ(again.parallel.data, 4);
}

TEST(Training, RecordingDoesNotEndWithPrinting) {
  const TempFolder folder;
  write_tiny_data(folder);
  const std::string out = train_quietly(tiny_config(folder, "run", {"run.log_every=0"}));
  EXPECT_EQ(out.find("step 1/6"), std::string::npos) << out;
  EXPECT_EQ(metric_lines(folder / "run").size(), 6U + 2U);
  for (const char* part :
       {"step 6: loss ", "validation loss ", "6 steps, 1,536 tokens", "MFU is of ", "checkpoint: ", "step_00000006\n"})
    EXPECT_NE(out.find(part), std::string::npos) << part << " in\n" << out;
  for (const auto& line : metric_lines(folder / "run")) EXPECT_LE(line.value("mfu", 0.0), 1.0);
}

TEST(Training, WithoutItsLastCheckpointARunFails) {
  const TempFolder folder;
  write_tiny_data(folder);
  fs::create_directories(folder / "run");
  write_text(folder / "run/checkpoints", "in the way");
  const auto kind = [&](const std::vector<std::string>& overrides) {
    testing::internal::CaptureStderr();
    ErrorKind found = ErrorKind::Internal;
    try {
      train_quietly(tiny_config(folder, "run", overrides));
    } catch (const Error& error) {
      found = error.kind();
    }
    testing::internal::GetCapturedStderr();
    return found;
  };
  EXPECT_EQ(kind({}), ErrorKind::CheckpointIo);
  fs::remove(folder / "run/checkpoints");
  EXPECT_EQ(kind({"run.trace=/no/such/folder/trace.json"}), ErrorKind::CheckpointIo);
  EXPECT_FALSE(fs::exists(folder / "run/metrics.jsonl") && !metric_lines(folder / "run").empty() &&
               fs::exists(folder / "run/checkpoints"))
      << "the trace is looked at before the first step";
}

TEST(Training, EvaluationCoversTheWholeSplit) {
  const TempFolder folder;
  write_tiny_data(folder);
  const Config config = tiny_config(folder, "run");  // eval_batches: 2
  train_quietly(config);
  const MpiSession mpi;
  const Evaluation whole = evaluate(config, mpi), part = evaluate(config, mpi, {1, true});
  EXPECT_TRUE(whole.whole);
  EXPECT_EQ(whole.targets, 599);  // a tenth of 6000 tokens
  EXPECT_FALSE(part.whole);
  EXPECT_EQ(part.targets, 256);
}

TEST(Training, EvaluationOfAnotherModelOrTokenizerIsRefused) {
  const TempFolder folder;
  write_tiny_data(folder);
  make_byte_tokenizer()->save((folder / "text").string());
  train_quietly(tiny_config(folder, "run", {"model.vocabulary=257"}));
  make_char_tokenizer({U'a', U'b'})->save((folder / "text").string());
  const MpiSession mpi;
  for (const auto& [override, part] :
       std::vector<std::pair<std::string, std::string>>{{"model.layers=1", "model.layers: is 1"},
                                                        {"model.norm_eps=0.1", "model.norm_eps: is 0.1"},
                                                        {"model.heads=2", "model.heads: is 2"},
                                                        {"run.seed=3", "made with different tokenizers"}}) {
    try {
      evaluate(tiny_config(folder, "run", {"model.vocabulary=257", override}), mpi);
      ADD_FAILURE() << "evaluated with " << override;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

TEST(Training, GradientAccumulationEqualsOneBigMicroBatch) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    std::vector<std::vector<double>> losses;
    for (const std::int64_t micro_batch : {4, 2, 1}) {
      ProgramOptions o = tiny_options(family);
      o.micro_batch = micro_batch;
      Engine engine(build_programs(o), {});
      engine.initialise(1);
      losses.emplace_back();
      for (std::int64_t step = 0; step < 5; ++step) losses.back().push_back(tiny_step(engine, o, step, 0, 4, 4).loss());
    }
    for (std::size_t i = 0; i < losses[0].size(); ++i) {
      EXPECT_NEAR(losses[0][i], losses[1][i], 1e-6);
      EXPECT_NEAR(losses[0][i], losses[2][i], 1e-6);
    }
    EXPECT_LT(losses[0].back(), losses[0].front());
  }
}

struct ParallelRun {
  std::vector<double> losses;
  std::int64_t sent_bytes = 0;  // by all ranks
  std::int64_t gradient_bytes = 0;
  std::int64_t allocations = 0;  // by ops of all ranks, after the first step
};

// `ranks` replicas as threads, `rows` rows a step over all of them.
ParallelRun train_parallel(int ranks, std::int64_t rows, std::int64_t steps, std::int64_t micro_batch,
                           std::int64_t bucket_bytes) {
  ParallelRun run;
  auto transports = make_local_transports(ranks);
  std::vector<Group> groups;
  for (auto& transport : transports) groups.emplace_back("data", std::move(transport));
  std::vector<std::vector<double>> losses(static_cast<std::size_t>(ranks));
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  const auto work = [&](int rank) {
    const auto at = static_cast<std::size_t>(rank);
    try {  // the root of a thread: forwarded below
      ProgramOptions o = tiny_options(ModelFamily::Gpt2);
      o.micro_batch = micro_batch;
      o.mesh.data = o.mesh.shards = ranks;
      o.rank = rank;
      o.bucket_bytes = bucket_bytes;
      EngineOptions options;
      options.groups["data"] = &groups[at];
      Engine engine(build_programs(o), options);
      engine.initialise(1);
      const std::int64_t share = rows / ranks;
      for (std::int64_t step = 0; step < steps; ++step) {
        losses[at].push_back(tiny_step(engine, o, step, rank * share, share, rows).loss());
        if (rank == 0 && step == 0) AllocationCounter::start();
      }
      if (rank == 0) run.gradient_bytes = engine.programs().plan.region("gradients").bytes;
    } catch (...) {
      errors[at] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (int r = 1; r < ranks; ++r) threads.emplace_back(work, r);
  work(0);
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& e : errors) {
    if (e) std::rethrow_exception(e);
  }
  for (const auto& other : losses) EXPECT_EQ(other, losses[0]);
  for (const Group& g : groups) run.sent_bytes += g.bytes_sent();
  run.losses = losses[0];
  run.allocations = AllocationCounter::count();
  return run;
}

TEST(Training, DataParallelRanksGiveTheLossesOfOneRank) {
  constexpr std::int64_t kSteps = 20, kRows = 8;
  const ParallelRun one = train_parallel(1, kRows, kSteps, 2, 1 << 20);
  EXPECT_EQ(one.sent_bytes, 0);
  EXPECT_LT(one.losses.back(), one.losses.front());
  for (const int ranks : {2, 4}) {
    const ParallelRun run = train_parallel(ranks, kRows, kSteps, ranks == 2 ? 2 : 1, 4096);
    ASSERT_EQ(run.losses.size(), one.losses.size());
    for (std::size_t i = 0; i < run.losses.size(); ++i)
      EXPECT_NEAR(run.losses[i], one.losses[i], 1e-5) << ranks << " ranks, step " << i;
    EXPECT_EQ(run.allocations, 0) << ranks << " ranks";
    // Every element goes to its owner from all others, and from it to all others; the loss is two doubles.
    EXPECT_EQ(run.sent_bytes, kSteps * 2 * (ranks - 1) * (run.gradient_bytes + 16)) << ranks << " ranks";
  }
}

}  // namespace
}  // namespace plimsoll
