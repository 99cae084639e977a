#include "launch/plan_file.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "launch/config_keys.hpp"
#include "launch/layout_choice.hpp"
#include "launch/plan_question.hpp"
#include "launch/plan_report.hpp"
#include "launch/run_setup.hpp"
#include "runtime/core/text.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/ops/attention_device.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

using nlohmann::json;
using test::TempFolder;

class PlanFile : public testing::Test {
 protected:
  // Everything auto that a plan may choose.
  Config config(const std::vector<std::string>& settings = {}, int ranks = 2) const {
    std::vector<std::string> all{fmt::format("run.dir={}", (folder_ / "run").string())};
    all.insert(all.end(), settings.begin(), settings.end());
    Config c = parse_config(
        "model: {family: gpt2, layers: 6, hidden: 24, heads: 4, vocabulary: 61, positions: 32}\n"
        "data: {train: none, sequence: 16}\n"
        "train: {global_batch: 16}\n"
        "run: {threads: 1}\n",
        "run.yaml", all);
    check_for_ranks(c, ranks);
    return c;
  }

  ProgramOptions options(const Config& c) const { return choose_programs(c, {0, 2, 0, 2}, Purpose::Train, 0, 0); }
  json report(const Config& c, const ProgramOptions& o) const {
    return whole_plan_json(c, plan_question(c), rank_roles(o), {0, 0, "", 2});
  }
  json plan(const Config& c) const { return report(c, options(c)); }

  std::filesystem::path write(const json& plan, const char* name = "a.json") const {
    std::filesystem::create_directories(folder_ / "run/checkpoints");
    test::write_text(folder_ / name, plan.dump());
    return folder_ / name;
  }

  TempFolder folder_;
};

// What is thrown, by kind and text; internal errors and other exceptions fail the test.
template <class Work>
std::pair<ErrorKind, std::string> error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
  return {ErrorKind::Internal, "nothing was wrong"};
}

TEST_F(PlanFile, WrongValuesAreBadDataThatNameFileAndPlace) {
  const Config automatic =
      config({"parallel.shard=auto", "parallel.zero=1", "parallel.tensor_chunks=auto", "comm.pipeline_chunks=auto"});
  const json good = plan(automatic);
  json with_parts = good;
  with_parts["stage_message"] = {{"bytes", 8}, {"pieces", 1}};
  with_parts["buckets"] = {{"bytes", {8}}, {"node_ranks", 1}};
  with_parts["gathers"] = {{"distance", 1}};
  with_parts["recompute"]["yaml"] = "none";
  const json huge = std::uint64_t{18446744073709551615U};
  const std::vector<std::pair<std::string, std::vector<json>>> wrong{
      {"/ranks", {0, -2, "2", 2.0, nullptr, huge}},
      {"/micro_batch", {0, -4, "4", 1.5, json::array(), huge, std::int64_t{1} << 40}},
      {"/logits_bytes", {0, -1, "128 MiB", json::object()}},
      {"/parallel", {3, json::object(), nullptr}},
      {"/mesh", {3, "data", json::array()}},
      {"/mesh/shard", {0, "2", 3, -1}},
      {"/mesh/zero", {-1, 4, "1"}},
      {"/mesh/tensor_chunks", {0, 65, "1"}},
      {"/stage_message", {1}},
      {"/stage_message/pieces", {0, 65, true}},
      {"/buckets", {json::array(), 3}},
      {"/buckets/node_ranks", {0, 3, "1"}},
      {"/gathers", {7}},
      {"/gathers/distance", {-1, 65, "1"}},
      {"/recompute", {3, "none"}},
      {"/recompute/yaml", {3, json::array({1})}},
      {"/state_shares", {3, "auto", json::array({-1, 2}), json::array({"a"})}},
      {"/shares", {3, json::array({1.5})}},
      {"/roles", {3, json::object(), json::array(), json::array({1}), nullptr}},
      {"/roles/0", {3}},
      {"/roles/0/recompute", {"none"}},
  };
  for (const auto& [place, values] : wrong) {
    for (const json& value : values) {
      json bad = with_parts;
      bad[json::json_pointer(place)] = value;
      const std::string file = write(bad).string();
      write(bad, "run/plan.json");
      for (const bool resume : {false, true}) {
        Config c = automatic;
        const auto [kind, text] = error_of([&] { resume ? keep_plan_choices(c, 2) : follow_plan(c, 2, file); });
        EXPECT_EQ(kind, ErrorKind::BadData) << place << " " << value << ": " << text;
        const std::string named = resume ? "run/plan.json" : "a.json";
        EXPECT_NE(text.find(named), std::string::npos) << text;
        EXPECT_NE(text.find(place.substr(0, place.rfind("/0"))), std::string::npos) << text;
      }
    }
  }
  for (const auto& [place, value] : {std::pair<const char*, json>{"/threads", std::int64_t{1} << 40},
                                     {"/threads", "1"},
                                     {"/threads", -1},
                                     {"/cluster", 3},
                                     {"/asked", 3},
                                     {"/links", json::array()}}) {
    json bad = with_parts;
    bad[json::json_pointer(place)] = value;
    const std::filesystem::path file = write(bad);
    Config c = automatic;
    const auto [kind, text] = error_of([&] { follow_plan(c, 2, file); });
    EXPECT_EQ(kind, ErrorKind::BadData) << text;
    EXPECT_NE(text.find(fmt::format("a.json: {} is {}, not ", place, value.dump())), std::string::npos) << text;
  }
}

TEST_F(PlanFile, LayoutsThatCannotBeReadAreBadData) {
  const Config automatic = config({"parallel=auto"});
  json bad = plan(config());
  for (const char* line : {"{data: 0}", "{data: [}", "{pipeline: two}", "{unknown: 1}"}) {
    bad["parallel"] = line;
    const std::filesystem::path file = write(bad);
    Config c = automatic;
    const auto [kind, text] = error_of([&] { follow_plan(c, 2, file); });
    EXPECT_EQ(kind, ErrorKind::BadData) << line << ": " << text;
    EXPECT_NE(text.find("a.json"), std::string::npos) << text;
  }
}

TEST_F(PlanFile, NumbersThatAnotherBatchOrMeshHasAreOfAnotherRun) {
  json other = plan(config());
  other["micro_batch"] = 3;
  Config c = config();
  const auto [kind, text] = error_of([&, file = write(other)] { follow_plan(c, 2, file); });
  EXPECT_EQ(kind, ErrorKind::Config);
  EXPECT_NE(text.find("a.json: was made for another run: train.global_batch: "), std::string::npos) << text;
  EXPECT_NE(text.find("micro_batch 3"), std::string::npos) << text;
  other = plan(config());
  other["parallel"] = "{data: 1, pipeline: 3}";
  Config automatic = config({"parallel=auto"});
  const auto [again, words] = error_of([&, file = write(other)] { follow_plan(automatic, 2, file); });
  EXPECT_EQ(again, ErrorKind::Config);
  EXPECT_NE(words.find("a.json: was made for another run: parallel"), std::string::npos) << words;
}

// The bytes of a plan do not depend on the batch, nor those of a small model on the budget: a run that asks something
// else is refused all the same, and told the first key that differs.
TEST_F(PlanFile, ARunThatAsksSomethingElseIsToldTheKey) {
  const std::vector<std::string> given{"train.micro_batch=2", "memory.budget=64 MiB", "parallel.zero=1"};
  const std::filesystem::path file = write(plan(config(given)));
  const auto refusal = [&](std::string setting) {
    std::vector<std::string> settings = given;
    settings.push_back(std::move(setting));
    Config c = config(settings);
    return error_of([&] { follow_plan(c, 2, file); });
  };
  const std::string folder = folder_.path().string();
  for (const auto& [setting, text] : std::vector<std::pair<std::string, std::string>>{
           {"train.global_batch=32", "train.global_batch: 16 there, 32 here"},
           {"data.sequence=32", "data.sequence: 16 there, 32 here"},
           {"data.validation=0", "data.validation: some there, none here"},
           {"model.hidden=48", "model.hidden: 24 there, 48 here"},
           {"model.dropout=0.1", "model.dropout: 0 there, 0.1 here"},
           {"precision=bf16", "precision: fp32 there, bf16 here"},
           {"optimizer.name=sgd", "optimizer.name: adamw there, sgd here"},
           {"optimizer.clip=0", "optimizer.clip: above 0 there, 0 here"},
           {"parallel.zero=2", "parallel.zero: 1 there, 2 here"},
           {"parallel={tensor: 2}", "parallel.data: 2 there, 1 here"},
           {"memory.recompute=none", "memory.recompute: auto there, none here"},
           {"memory.recompute=[full, none, none, none, none, none]",
            "memory.recompute: auto there, [full, none, none, none, none, none] here"},
           {"memory.logits=65536", "memory.logits: auto there, 65536 here"},
           {"memory.budget=65 MiB", "memory.budget: 64 MiB there, 65 MiB here"},
           {"train.micro_batch=4", "train.micro_batch: 2 there, 4 here"},
           {"run.threads=2", "run.threads: 1 there, 2 here"},
           {"comm.bucket=1 MiB", "comm.bucket: auto there, 1 MiB here"},
           {"comm.cluster=" + folder + "/x/../c.yaml", "comm.cluster: auto there, " + folder + "/c.yaml here"}}) {
    const auto [kind, said] = refusal(setting);
    EXPECT_EQ(kind, ErrorKind::Config) << setting;
    EXPECT_EQ(said, fmt::format("{}: was made for another run: {}", file.string(), text));
  }
  const std::filesystem::path open = write(plan(config({"memory.recompute=none"})), "open.json");
  Config needs = config({"memory.recompute=auto", "memory.budget=1 MiB"});
  EXPECT_EQ(error_of([&] { follow_plan(needs, 2, open); }).second,
            open.string() + ": was made for another run: memory.budget: auto there, 1 MiB here");
}

// What changes neither a byte nor a predicted time may differ, and what a run leaves open is the plan's.
TEST_F(PlanFile, ARunMayDifferInWhatNoPlanFollowsFrom) {
  const std::vector<std::string> given{"train.micro_batch=2", "memory.budget=64 MiB", "parallel={data: 1, tensor: 2}"};
  const json planned = plan(config(given));
  const std::filesystem::path file = write(planned);
  Config c = config({"optimizer.lr=1", "train.steps=7", "schedule.warmup=2", "run.seed=9", "run.save_every=1",
                     "data.train=[a, b]", "model.init_std=0.5", "parallel=auto"});
  follow_plan(c, 2, file);
  EXPECT_EQ(c.train.micro_batch, 2);
  EXPECT_EQ(c.parallel.tensor, 2);
  check_followed(plan(c), file);
  // A section that the plan was asked to choose is its own: this run asks for the other layout.
  json chosen = planned;
  for (auto it = chosen["asked"].begin(); it != chosen["asked"].end();)
    it = it.key().starts_with("parallel.") ? chosen["asked"].erase(it) : std::next(it);
  chosen["asked"]["parallel"] = "auto";
  Config other = config({"parallel={data: 2}"});
  EXPECT_EQ(error_of([&, automatic = write(chosen)] { follow_plan(other, 2, automatic); }).second,
            file.string() + ": was made for another run: parallel.data: auto there, 2 here");
  EXPECT_TRUE(plan_question(config({"parallel=auto"})).contains("parallel"));
}

// A list of exceptions is of keys that there are.
TEST_F(PlanFile, AQuestionHasEveryKeyButThoseThatNoPlanFollowsFrom) {
  const json asked = plan_question(config());
  std::vector<std::string> without;
  for (const auto& [key, text] : config_keys().write(config()).values()) {
    if (!asked.contains(key)) without.push_back(key);
  }
  EXPECT_EQ(join(without, " "),
            "model.preset model.from model.init_std model.scale_residual_init data.train data.dtype train.steps "
            "train.eval_batches optimizer.lr optimizer.betas optimizer.eps optimizer.weight_decay "
            "optimizer.loss_scale.initial optimizer.loss_scale.window schedule.name schedule.warmup schedule.min_lr "
            "schedule.decay_steps plan.profile comm.transport comm.deadline fp8 run.dir "
            "run.seed run.log_every run.eval_every run.save_every run.keep run.trace run.poison");
}

// Where it is off, a plan is one of before there was such a key; it is asked all the same.
TEST_F(PlanFile, Fp8IsSaidWhereItIsOn) {
  const std::vector<std::string> off{"precision=bf16", "memory.budget=64 MiB", "parallel.zero=1"};
  std::vector<std::string> on = off;
  on.emplace_back("fp8=linears");
  EXPECT_EQ(plan_question(config(on)).at("fp8"), "linears");
  const std::filesystem::path without = write(plan(config(off)), "off.json"), with = write(plan(config(on)), "on.json");
  for (const auto& [settings, same, other, text] : {std::tuple{off, without, with, "fp8: linears there, off here"},
                                                    std::tuple{on, with, without, "fp8: off there, linears here"}}) {
    Config c = config(settings);
    EXPECT_EQ(error_of([&, file = other] { follow_plan(c, 2, file); }).second,
              fmt::format("{}: was made for another run: {}", other.string(), text));
    Config followed = config(settings);
    follow_plan(followed, 2, same);
    check_followed(plan(followed), same);
  }
}

// What computes wide heads is the GPU's: a plan is of the device that it describes, and a run of the one that it found.
TEST_F(PlanFile, WideHeadsArePlannedForTheGpuThatTheRunFinds) {
  const auto wide = [&](const FoundGpu& found, int heads, std::vector<std::string> more = {}) {
    // Long enough that backward's workspace is more than what products have.
    more.insert(more.end(), {"device=cuda", "precision=bf16", "train.micro_batch=2", "model.positions=4096",
                             "data.sequence=4096", "model.hidden=192", fmt::format("model.heads={}", heads)});
    Config c = config(more);
    c.gpu = found;
    return c;
  };
  const FoundGpu none, h200{"NVIDIA H200", std::int64_t{141} << 30, {}, fused_heads(90)},
      a100{"NVIDIA A100-SXM4-80GB", std::int64_t{80} << 30, {}, fused_heads(80)};
  const json planned = plan(wide(none, 1));  // for an H200
  EXPECT_EQ(planned["fused_heads"], (json{{"forward", 256}, {"backward", 256}}));
  const std::filesystem::path file = write(planned);
  Config followed = wide(h200, 1);
  follow_plan(followed, 2, file);
  const json same = plan(followed);
  EXPECT_EQ(same["roles"], planned["roles"]);
  check_followed(same, file);
  followed.gpu = a100;
  const json other = plan(followed);
  EXPECT_LT(other["arena_bytes"], planned["arena_bytes"]) << "our own kernels need no workspace";
  const auto [kind, text] = error_of([&] { check_followed(other, file); });
  EXPECT_EQ(kind, ErrorKind::Config);
  EXPECT_EQ(text, file.string() + ": was made for another run: /fused_heads/backward is 256 there, and here 128");
  // A described device is found by its name.
  const auto described = [&](const char* name) {
    ClusterDescription c;
    c.device.name = name;
    test::write_text(folder_ / "cluster.yaml", write_cluster(c, ""));
    return plan(wide(none, 1, {"comm.cluster=" + (folder_ / "cluster.yaml").string()}))["fused_heads"];
  };
  EXPECT_EQ(described("H100 SXM5"), planned["fused_heads"]);
  EXPECT_EQ(described("A100 SXM4"), other["fused_heads"]);
  EXPECT_EQ(described("another GPU"), (json{{"forward", 128}, {"backward", 128}}));
  // Of other heads every GPU has the same plan, which says nothing of them.
  const json narrow = plan(wide(h200, 2));
  EXPECT_FALSE(narrow.contains("fused_heads"));
  EXPECT_EQ(narrow, plan(wide(a100, 2)));
  EXPECT_FALSE(plan(config({"model.hidden=192", "model.heads=1"})).contains("fused_heads")) << "on a CPU";
  // A run without the library plans no workspace for it, and a plan that has some is not its own.
  FoundGpu without = h200;
  without.fused_heads = fused_heads(90, 0);
  const json unfused = plan(wide(without, 2));
  EXPECT_EQ(unfused["fused_heads"], (json{{"forward", 0}, {"backward", 0}}));
  EXPECT_LT(unfused["arena_bytes"], narrow["arena_bytes"]);
  EXPECT_EQ(error_of([&] { check_followed(unfused, write(narrow)); }).first, ErrorKind::Config);
  EXPECT_EQ(error_of([&, made = write(unfused)] { check_followed(narrow, made); }).second,
            file.string() +
                ": was made for another run: /fused_heads is {\"backward\":0,\"forward\":0} there, and here missing");
  Config floats = wide(without, 2);
  floats.precision = DType::f32;  // which is our own kernels' anyway
  EXPECT_FALSE(plan(floats).contains("fused_heads"));
}

// The layout planner's pieces are those of the programs.
TEST_F(PlanFile, LayoutsAreSearchedWithTheKernelsOfTheGpu) {
  Config c = config({"device=cuda", "precision=bf16", "model.hidden=192", "model.heads=1"});
  EXPECT_EQ(layout_problem(c, 2, 0).fused_heads, fused_heads(90));
  c.gpu = {"NVIDIA A100-SXM4-80GB", std::int64_t{80} << 30, {}, fused_heads(80)};
  EXPECT_EQ(layout_problem(c, 2, 0).fused_heads, fused_heads(80));
  EXPECT_EQ(options(c).fused_heads, fused_heads(80));
}

TEST_F(PlanFile, AMissingPartIsSaidOnce) {
  json other = plan(config());
  other.erase("logits_bytes");
  const auto [kind, text] = error_of([&, file = write(other)] { check_followed(plan(config()), file); });
  EXPECT_EQ(kind, ErrorKind::Config);
  EXPECT_NE(text.find("/logits_bytes is missing there, and here 134217728"), std::string::npos) << text;
}

ClusterDescription cluster_of(double latency_s, double bytes_per_s) {
  ClusterDescription c;
  c.inside = c.between = {latency_s, bytes_per_s};
  c.device.matmul.fp32 = c.device.attention.fp32 = 1e8;
  return c;
}

// What a plan sized by links and kernels is in the file: that these are measured anew is no other run.
TEST_F(PlanFile, SizesAreThoseOfTheFileWhateverLinksAreLikeNow) {
  struct Case {
    std::vector<std::string> settings;
    ClusterDescription then, now;
    const char* changes;  // what would be chosen otherwise now
  };
  const ClusterDescription slow = cluster_of(1, 1e12);
  const std::vector<Case> cases{
      {{}, cluster_of(0, 1e8), slow, "/roles/0/buckets/bytes"},
      {{"parallel.pipeline=2", "parallel.data=2"}, cluster_of(0, 1e8), slow, "/roles/1/buckets/bytes"},
      {{"parallel.zero=1"}, cluster_of(2e-2, 1e9), cluster_of(0, 1e8), "/roles/0/buckets/bytes"},
      {{"parallel.zero=2"}, cluster_of(2e-2, 1e9), cluster_of(0, 1e8), "/roles/0/buckets/bytes"},
      {{"parallel.zero=3"}, cluster_of(2e-2, 1e9), cluster_of(0, 1e8), "/roles/0/buckets/bytes"},
      {{"parallel.zero=3"}, cluster_of(1e-4, 6e5), slow, "/gathers/distance"},
      {{"parallel.zero=3"}, cluster_of(2e-2, 1e9), cluster_of(1e-9, 1e5), "/gathers/ends"},
      {{"parallel.tensor=2", "parallel.sequence=false", "parallel.tensor_chunks=auto"},
       cluster_of(1e-6, 4e6),
       slow,
       "/mesh/tensor_chunks"},
      {{"parallel.pipeline=2", "train.micro_batch=1", "comm.pipeline_chunks=auto"},
       cluster_of(1e-6, 4e6),
       slow,
       "/stage_message/pieces"},
  };
  for (const Case& c : cases) {
    std::vector<std::string> with_cluster = c.settings;
    with_cluster.push_back("comm.cluster=" + (folder_ / "cluster.yaml").string());
    const int ranks = c.settings.size() == 2 && c.settings[1] == "parallel.data=2" ? 4 : 2;
    const auto made = [&](const Config& config) {
      const ProgramOptions o = choose_programs(config, {0, ranks, 0, ranks}, Purpose::Train, 0, 0);
      return whole_plan_json(config, plan_question(config), rank_roles(o), {0, 0, "", ranks});
    };
    test::write_text(folder_ / "cluster.yaml", write_cluster(c.then, "# then\n"));
    const json planned = made(config(with_cluster, ranks));
    const std::filesystem::path file = write(planned);
    test::write_text(folder_ / "cluster.yaml", write_cluster(c.now, "# now\n"));
    const json::json_pointer changes(c.changes);
    EXPECT_NE(made(config(with_cluster, ranks))[changes], planned[changes]) << c.changes;
    for (const bool named : {false, true}) {
      Config followed = config(named ? with_cluster : c.settings, ranks);
      follow_plan(followed, ranks, file);
      const json mine = made(followed);
      EXPECT_EQ(mine[changes], planned[changes]) << c.changes;
      EXPECT_NO_THROW(check_followed(mine, file)) << c.changes;
    }
  }
}

// What runs in blocks of rows is part of what is followed.
TEST_F(PlanFile, CarriesRowSplits) {
  const std::vector<std::string> wide{"train.micro_batch=1", "model.ffn=768", "model.layers=2", "data.sequence=32"};
  const Config c = config(wide);
  const ProgramOptions least = choose_programs(c, {0, 2, 0, 2}, Purpose::Train, 1000, 0);
  ASSERT_TRUE(has_row_splits(least.recompute));
  const json written = report(c, least);
  const auto file = write(written);
  Config followed = config(wide);
  follow_plan(followed, 2, file);
  const ProgramOptions o = options(followed);
  EXPECT_EQ(o.recompute, least.recompute);
  check_followed(report(followed, o), file);
  json other = written;
  for (json& role : other["roles"]) {
    for (json& layer : role["recompute"]["layers"]) {
      if (layer.is_object() && layer.contains("rows")) layer["rows"] = 64;
    }
  }
  const auto [kind, text] =
      error_of([&, wrong = write(other, "b.json")] { check_followed(report(followed, o), wrong); });
  EXPECT_EQ(kind, ErrorKind::Config);
  EXPECT_NE(text.find("rows"), std::string::npos) << text;
}

TEST_F(PlanFile, SizesThatTheProgramCannotHaveAreOfAnotherRun) {
  test::write_text(folder_ / "cluster.yaml", write_cluster(cluster_of(0, 1e8), "# fast\n"));
  const std::string cluster = "comm.cluster=" + (folder_ / "cluster.yaml").string();
  const json planned = plan(config({cluster})), sharded = plan(config({cluster, "parallel.zero=3"}));
  const auto refused = [&](const json& other, const std::vector<std::string>& settings) {
    const std::filesystem::path file = write(other);
    return error_of([&] {
      Config c = config(settings);
      follow_plan(c, 2, file);
      check_followed(plan(c), file);
    });
  };
  json other = planned;
  auto& bytes = other["roles"][0]["buckets"]["bytes"];
  bytes[0] = bytes[0].get<std::int64_t>() + 4;
  EXPECT_EQ(refused(other, {}).first, ErrorKind::Config);
  EXPECT_NE(refused(other, {}).second.find("/roles/0/buckets/bytes"), std::string::npos) << refused(other, {}).second;
  // Pieces of a model are summed in different actions of a pipeline, where ZeRO 2 has their gradients.
  const std::vector<std::string> interleaved{"parallel.zero=2", "parallel.pipeline=2", "parallel.data=2",
                                             "parallel.schedule=interleaved", "train.micro_batch=1"};
  const auto of_four = [&](const Config& c) {
    const ProgramOptions o = choose_programs(c, {0, 4, 0, 4}, Purpose::Train, 0, 0);
    return whole_plan_json(c, plan_question(c), rank_roles(o), {0, 0, "", 4});
  };
  other = of_four(config(interleaved, 4));
  std::int64_t all = 0;
  for (const json& one : other["roles"][0]["buckets"]["bytes"]) all += one.get<std::int64_t>();
  other["roles"][0]["buckets"]["bytes"] = json{all};
  const auto [apart, why] = error_of([&, file = write(other)] {
    Config c = config(interleaved, 4);
    follow_plan(c, 4, file);
    check_followed(of_four(c), file);
  });
  EXPECT_EQ(apart, ErrorKind::Config);
  EXPECT_NE(why.find("/roles/0/buckets/bytes"), std::string::npos) << why;
  for (const json& ends : {json{1, 2}, json{2, 1}, json{1000}}) {
    other = sharded;
    other["roles"][0]["gathers"]["ends"] = ends;
    const auto [kind, text] = refused(other, {"parallel.zero=3"});
    EXPECT_EQ(kind, ErrorKind::Config);
    EXPECT_NE(text.find("/roles/0/gathers/"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace plimsoll
