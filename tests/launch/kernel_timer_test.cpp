// Real kernels on the clock: every kind of node of real programs, alone and on ranks that share the result.

#include "launch/kernel_timer.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/run_costs.hpp"
#include "launch/step_times.hpp"
#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_ranks.hpp"
#include "tests/support/separate_device.hpp"

namespace plimsoll {
namespace {

using namespace test;

TEST(KernelTimer, EveryNodeOfAProgramIsMeasured) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      ProgramOptions o = tiny_options(family);
      o.dtype = dtype;
      o.model.dropout = 0.1;
      o.mesh = {.data = 2, .tensor = 2, .shards = 2};
      o.zero = 1;
      o.recompute = {{RecomputeMode::Full, {}}, {RecomputeMode::Offload, {}}};
      const Programs programs = build_programs(o);
      KernelTimer timer({});
      for (const Node& node : programs.graph("train").nodes) {
        const auto seconds = timer.node_seconds(programs.graph("train"), node);
        EXPECT_EQ(seconds.has_value(), !op_info(node.op).collective) << kernel_key(node);
        if (!seconds) continue;
        EXPECT_GT(*seconds, 0) << kernel_key(node);
        EXPECT_LT(*seconds, 1) << kernel_key(node);
      }
      EXPECT_GT(timer.spent_seconds(), 0);
    }
  }
}

// The same where the host only launches, and its memory is not the device's.
TEST(KernelTimer, NodesOfADeviceAreMeasured) {
  Backend backend = make_separate_backend();
  KernelTimerOptions options;
  options.backend = &backend;
  KernelTimer timer(options);
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.mesh = {.tensor = 2};
  const Programs programs = build_programs(o);
  int measured = 0;
  for (const Node& node : programs.graph("train").nodes) {
    const auto seconds = timer.node_seconds(programs.graph("train"), node);
    EXPECT_EQ(seconds.has_value(), !op_info(node.op).collective) << kernel_key(node);
    if (!seconds) continue;
    ++measured;
    EXPECT_GT(*seconds, 0) << kernel_key(node);
    EXPECT_LT(*seconds, 1) << kernel_key(node);
  }
  EXPECT_GT(measured, 20);
  const auto rate = timer.memory_seconds_per_byte();
  ASSERT_TRUE(rate);
  EXPECT_GT(*rate, 1e-12);
  EXPECT_LT(*rate, 1e-6);
}

TEST(KernelTimer, MessagesOfDevicesAreMeasured) {
  std::array<std::vector<MeasuredLink>, 2> seen;
  const auto faults = on_ranks_over(2, [&](const std::shared_ptr<Transport>& below) {
    Backend backend = make_separate_backend_over({TransportName::Staged, nullptr, ""});
    const Group control("control", below);
    // Its own channel, as in a run; here messages and control take turns.
    const Group messages("world", backend.transports->over("world", below, nullptr));
    KernelTimerOptions options;
    options.group = &control;
    options.backend = &backend;
    options.messages = &messages;
    options.most_bytes = std::int64_t{10} << 20;  // three messages, and the matrices of the work around them
    KernelTimer timer(options);
    const auto link = timer.link(LinkOperation::AllReduce);
    if (!link) return std::string("not measured");
    seen[static_cast<std::size_t>(control.rank())].push_back(*link);
    return std::string();
  });
  EXPECT_EQ(faults, std::vector<std::string>(2));
  ASSERT_EQ(seen[0].size(), 1U);
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0][0].ranks, 2);
  EXPECT_EQ(seen[0][0].bytes.back(), 1 << 20);
}

// A product of four times the rows takes longer: what is measured is the kernel.
TEST(KernelTimer, MoreWorkTakesLonger) {
  const auto seconds = [](std::int64_t rows) {
    ProgramOptions o = tiny_options(ModelFamily::Gpt2);
    o.model.hidden = 128;
    o.sequence = 64;
    o.micro_batch = rows;
    const Programs programs = build_programs(o);
    KernelTimer timer({});
    double most = 0;
    for (const Node& node : programs.graph("train").nodes) {
      if (node.op == op_id<Linear>) most = std::max(most, *timer.node_seconds(programs.graph("train"), node));
    }
    return most;
  };
  EXPECT_GT(seconds(16), 2 * seconds(1));
}

TEST(KernelTimer, LimitsOfBytesAndSeconds) {
  const Programs programs = build_programs(tiny_options(ModelFamily::Gpt2));
  const Graph& graph = programs.graph("train");
  KernelTimerOptions options;
  options.most_bytes = 64;
  KernelTimer small(options);
  EXPECT_EQ(small.node_seconds(graph, graph.nodes.front()), std::nullopt);
  EXPECT_EQ(small.memory_seconds_per_byte(), std::nullopt);
  options = {};
  options.most_seconds = 0;
  KernelTimer late(options);
  EXPECT_EQ(late.node_seconds(graph, graph.nodes.front()), std::nullopt);
  KernelTimer free({});
  const auto rate = free.memory_seconds_per_byte();
  ASSERT_TRUE(rate);
  EXPECT_GT(*rate, 1e-12);
  EXPECT_LT(*rate, 1e-6);
}

TEST(KernelTimer, AllRanksGetTheSame) {
  std::array<std::vector<double>, 3> seen;
  const auto faults = on_ranks(3, [&](const Group& group) {
    const Programs programs = build_programs(tiny_options(ModelFamily::Llama));
    KernelTimerOptions options;
    options.group = &group;
    KernelTimer timer(options);
    auto& mine = seen[static_cast<std::size_t>(group.rank())];
    for (const Node& node : programs.graph("train").nodes)
      mine.push_back(*timer.node_seconds(programs.graph("train"), node));
    mine.push_back(timer.spent_seconds());
    return std::string();
  });
  EXPECT_EQ(faults, std::vector<std::string>(3));
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0], seen[2]);
}

// The products beside which a link is measured are buffers too.
TEST(KernelTimer, LinksAreMeasuredWithinTheirBytes) {
  for (const auto& [bytes, measured] : {std::pair{std::int64_t{4} << 20, false}, {std::int64_t{64} << 20, true}}) {
    const auto faults = on_ranks(2, [bytes = bytes, measured = measured](const Group& group) {
      KernelTimerOptions options{1, bytes};
      options.group = &group;
      KernelTimer timer(options);
      const auto link = timer.link(LinkOperation::AllReduce);
      EXPECT_EQ(link.has_value(), measured) << bytes;
      if (link) {
        EXPECT_LE(link->bytes.back(), bytes / 4);
      }
      return std::string();
    });
    for (const std::string& fault : faults) EXPECT_EQ(fault, "");
  }
}

// Rank 0 has the file; what it knows is not measured again, and what was measured is there for the next run.
TEST(RunCosts, AFileIsKeptAndRefusedOnAllRanks) {
  const TempFolder folder;
  const std::string file = (folder / "kernels.json").string();
  Config config = tiny_config(folder, "run", {"plan.profile=" + file});
  const Programs programs = build_programs(tiny_options(ModelFamily::Gpt2));
  const Graph& graph = programs.graph("train");
  const auto run = [&] {
    std::array<std::vector<double>, 2> seen;
    const auto faults = on_ranks(2, [&](const Group& group) {
      const Place place{group.rank(), 2, group.rank(), 2};
      const RunCosts costs(config, place, &group, std::int64_t{1} << 30);
      EXPECT_TRUE(costs.profiled());
      for (const Node& node : graph.nodes)
        seen[static_cast<std::size_t>(group.rank())].push_back(costs.costs().node_seconds(graph, node));
      const double reduced = costs.costs().collective_seconds(CollectiveKind::AllReduce, 1 << 16, 2, 1);
      EXPECT_GT(reduced, 0);
      EXPECT_NE(reduced, DescribedCosts(costs.cluster()).collective_seconds(CollectiveKind::AllReduce, 1 << 16, 2, 1));
      seen[static_cast<std::size_t>(group.rank())].push_back(reduced);
      costs.keep();
      return std::string();
    });
    for (const std::string& fault : faults) EXPECT_EQ(fault, "");
    EXPECT_EQ(seen[0], seen[1]);
    return seen[0];
  };
  const auto first = run();
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_EQ(run(), first) << "what is known is not measured again";
  // `plan` reads it too, for as many ranks on this machine.
  const RunCosts planned(config, {0, 2, 0, 2}, nullptr, 0);
  EXPECT_EQ(planned.costs().node_seconds(graph, graph.nodes.front()), first.front());

  write_text(file, R"({"format": 2, "cpu": "abacus", "build": "b", "profiles": {}})");
  const auto faults = on_ranks(2, [&](const Group& group) {
    const RunCosts costs(config, {group.rank(), 2, group.rank(), 2}, &group, 1 << 30);
    return std::string();
  });
  for (const std::string& fault : faults) {
    EXPECT_NE(fault.find("plan.profile"), std::string::npos) << fault;
    EXPECT_NE(fault.find("is of another CPU ('abacus'"), std::string::npos) << fault;
  }
}

// Times of a GPU's kernels are in the file beside those of the CPU, under what they depend on.
TEST(RunCosts, ADeviceHasItsOwnTimes) {
  const TempFolder folder;
  const std::string file = (folder / "kernels.json").string();
  const Programs programs = build_programs(tiny_options(ModelFamily::Gpt2));
  const Graph& graph = programs.graph("train");
  const Group alone("control", make_self_transport());
  Backend backend = make_separate_backend();
  const auto times = [&](const std::string& device) {
    Config config = tiny_config(folder, "run", {"plan.profile=" + file});
    if (!device.empty()) {
      config.device = DeviceKind::Cuda;
      config.gpu = {"NVIDIA H200", std::int64_t{140} << 30};
      backend.kernels_name = device;
    }
    const RunCosts costs(config, {}, &alone, std::int64_t{1} << 30, device.empty() ? nullptr : &backend);
    std::vector<double> all;
    for (const Node& node : graph.nodes) all.push_back(costs.costs().node_seconds(graph, node));
    costs.keep();
    return std::pair(all, costs.text());
  };
  const auto gpu = times("GPU, library 1"), cpu = times("");
  EXPECT_NE(gpu.second.find("of them now"), std::string::npos) << gpu.second;
  EXPECT_NE(gpu.first, cpu.first);
  EXPECT_EQ(times("GPU, library 1").first, gpu.first) << "what is known is not measured again";
  EXPECT_EQ(times("").first, cpu.first);
  EXPECT_NE(times("GPU, library 2").second.find("of them now"), std::string::npos) << "another library measures anew";
  EXPECT_NE(read_text(file).find("GPU, library 1 x 1"), std::string::npos);
}

// What plans without looking for a GPU cannot know whose times they are.
TEST(RunCosts, ANamedFileOfAGpuIsForRuns) {
  constexpr const char* kRun =
      "model: {preset: gpt2-124m}\ndata: {train: none, sequence: 8}\ndevice: cuda\nplan: {profile: kernels.json}\n";
  Config config = parse_config(kRun, "f.yaml");
  try {
    const RunCosts costs(config, {}, nullptr, 0);
    FAIL() << costs.text();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    EXPECT_TRUE(std::string_view(error.what())
                    .starts_with("f.yaml:4:17: plan.profile: whose times of kernels.json hold is known to a run, "))
        << error.what();
  }
  config.comm.cluster = PLIMSOLL_SOURCE_DIR "/configs/clusters/h200.yaml";
  EXPECT_EQ(RunCosts(config, {}, nullptr, 0).text(), "times: those of H200 SXM 141 GB");
}

TEST(RunCosts, AGpuIsDescribedByItsSheetOrAsItWasMeasured) {
  Config config =
      parse_config("model: {preset: gpt2-124m}\ndata: {train: none, sequence: 8}\ndevice: cuda\n", "f.yaml");
  EXPECT_EQ(choose_cluster(config).device.name, "H200") << "plan: nothing was looked for";
  config.gpu = {"NVIDIA A100-SXM4-80GB", std::int64_t{80} << 30};
  EXPECT_EQ(choose_cluster(config).device.name, "A100-SXM4-80GB");
  EXPECT_EQ(choose_cluster(config).device.memory_bytes, std::int64_t{80} << 30);
  config.gpu.name = "NVIDIA X1";
  EXPECT_THROW(choose_cluster(config), Error) << "never as another device";
  config.gpu.measured.emplace().matmul.bf16 = 7e12;
  EXPECT_EQ(choose_cluster(config).device.matmul.bf16, 7e12);
}

TEST(RunCosts, OffAndANamedClusterAreDescriptions) {
  const TempFolder folder;
  const Programs programs = build_programs(tiny_options(ModelFamily::Gpt2));
  const Graph& graph = programs.graph("train");
  const Config off = tiny_config(folder, "run", {"plan.profile=off"});
  const Config named =
      tiny_config(folder, "run", {std::string("comm.cluster=") + PLIMSOLL_SOURCE_DIR "/configs/clusters/cpu.yaml"});
  for (const Config& config : {off, named}) {
    const RunCosts costs(config, {}, nullptr, 0);
    EXPECT_FALSE(costs.profiled());
    for (const Node& node : graph.nodes)
      EXPECT_EQ(costs.costs().node_seconds(graph, node), DescribedCosts(costs.cluster()).node_seconds(graph, node));
  }
}

TEST(StepTimes, EveryRoleOfAPipelineIsPredicted) {
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.model.layers = 4;
  o.mesh.pipeline = 2;
  o.micro_batches = 4;
  const DescribedCosts costs{ClusterDescription{}};
  const StepPrediction p = predict_step(rank_roles(o), {costs.cluster(), &costs});
  ASSERT_EQ(p.roles.size(), 2U);
  double longest = 0;
  for (const RankTimes& t : p.roles) longest = std::max(longest, 4 * (t.forward_s + t.backward_s));
  EXPECT_GT(p.step_s, longest);
  EXPECT_LT(p.step_s, 3 * longest);
}

// Every number of the report against what the clock says by itself.
TEST(StepTimes, TheReportOfAStepAddsUp) {
  const ClusterDescription cluster;
  const DescribedCosts costs(cluster);
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.model.layers = 4;
  o.micro_batches = 6;
  for (const int stages : {1, 2}) {
    for (const int replicas : {1, 2}) {
      o.mesh = {.data = replicas, .pipeline = stages, .shards = replicas};
      const std::vector<RankRole> roles = rank_roles(o);
      const StepReport r = report_step(roles, {cluster, &costs});
      const double step_s = r.prediction.step_s;
      EXPECT_EQ(step_s, predict_step(roles, {cluster, &costs}).step_s);
      EXPECT_EQ(r.bubble > 0, stages > 1);
      EXPECT_EQ(r.exposed_s > 0, stages > 1 || replicas > 1) << r.exposed_s;
      EXPECT_LT(r.exposed_s, step_s);
      const double flops = 6.0 * replicas * static_cast<double>(roles.front().programs.train_flops_per_micro_batch);
      EXPECT_NEAR(r.mfu * stages * replicas * cluster.device.peak.of(o.dtype), flops / step_s, 1e-6 * flops / step_s);
      ASSERT_EQ(r.prediction.timelines.size(), roles.size());
      for (std::size_t i = 0; i < roles.size(); ++i) {
        const Timeline& timeline = *r.prediction.timelines[i];
        EXPECT_NEAR(timeline.step_s, step_s, 1e-9 * step_s);
        ASSERT_EQ(timeline.stages.size(), static_cast<std::size_t>(stages));
        std::vector<int> forwards(6, 0), backwards(6, 0);
        double now = 0;
        for (const TimedAction& t : timeline.stages[i]) {
          EXPECT_GE(t.start_s, now - 1e-12);
          now = t.end_s;
          ++(t.action.kind == ActionKind::Forward ? forwards
                                                  : backwards)[static_cast<std::size_t>(t.action.micro_batch)];
        }
        EXPECT_LE(now, step_s);
        EXPECT_EQ(forwards, std::vector<int>(6, 1));
        EXPECT_EQ(backwards, std::vector<int>(6, 1));
      }
      const nlohmann::json json = step_json(r, roles, "of a test");
      EXPECT_EQ(json["schedule"], stages > 1 ? "1f1b" : "none");
      const std::string text = step_text(r, roles, "of a test");
      for (const char* word :
           {"predicted step ", "MFU ", "bubble ", "exposed communication ", "schedule ", "of a test"})
        EXPECT_NE(text.find(word), std::string::npos) << word;
    }
  }
}

}  // namespace
}  // namespace plimsoll
