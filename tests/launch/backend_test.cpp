#include "launch/backend.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>

#include "comm/group.hpp"
#include "kernels/cpu/register.hpp"
#include "kernels/cuda_errors.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/run_setup.hpp"
#include "runtime/ops/attention_device.hpp"
#include "tests/comm/fake_nccl.hpp"
#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_ranks.hpp"
#include "tests/support/separate_device.hpp"

namespace plimsoll {
namespace {

RankGpu gpu(std::uint64_t host, char address, std::string_view name = "NVIDIA H200") {
  RankGpu g;
  g.host = host;
  g.bus_id[0] = address;
  std::copy(name.begin(), name.end(), g.name.begin());
  return g;
}

TEST(Backend, RanksThatShareAGpuAreFound) {
  EXPECT_EQ(shared_gpu(std::array{gpu(1, 'a'), gpu(1, 'b'), gpu(2, 'a'), gpu(2, 'b')}), std::nullopt);
  EXPECT_EQ(shared_gpu(std::array{gpu(1, 'a')}), std::nullopt);
  EXPECT_EQ(shared_gpu(std::array{gpu(1, 'a'), gpu(1, 'b'), gpu(2, 'b'), gpu(1, 'b')}),
            "ranks 1 and 3 have the same GPU (b)");
}

// While a rank is at work, no other one with its GPU is; those of other GPUs may be.
TEST(Backend, RanksThatShareAGpuTakeTurns) {
  const std::array gpus{gpu(1, 'a'), gpu(1, 'b'), gpu(1, 'a'), gpu(2, 'a'), gpu(1, 'a')};
  std::array<std::atomic<int>, 5> inside{};
  std::atomic<int> worked = 0;
  const auto faults = test::on_ranks(5, [&](const Group& control) -> std::string {
    const auto rank = static_cast<std::size_t>(control.rank());
    const std::size_t shared = rank == 2 || rank == 4 ? 0 : rank;
    bool alone = true;
    take_turns(control, gpus, [&] {
      alone = ++inside[shared] == 1;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      alone = alone && inside[shared]-- == 1;
      ++worked;
    });
    if (worked != 5) return "a rank goes on before all have had their turn";
    return alone ? "" : "two ranks at once";
  });
  EXPECT_EQ(faults, std::vector<std::string>(5));
}

std::atomic<std::int64_t> kept_by_library = 0;
void product_that_allocates(const KernelArgs& args) {
  kept_by_library = 700;
  cpu_kernels().find(op_id<Linear>, Phase::Forward, DType::f32)(args);
}

// What a library keeps comes with its first call, before the plan.
TEST(Backend, FirstCallsBringWhatLibrariesKeep) {
  kept_by_library = 0;
  Backend backend = test::make_separate_backend(false, [] { return 1000 + kept_by_library.load(); });
  backend.kernels.add<Linear>(Phase::Forward, DType::f32, product_that_allocates);
  EXPECT_EQ(backend.device->outside_bytes(), 1000);
  warm_up(backend, test::tiny_model(ModelFamily::Llama), DType::f32, 16);
  EXPECT_EQ(backend.device->outside_bytes(), 1700);
  backend.kept_bytes = 1700;
  kept_by_library = 5000;
  EXPECT_EQ(bytes_outside_now(backend), 6000);
  backend.sharing_ranks = 2;
  EXPECT_EQ(bytes_outside_now(backend), 1700) << "what changes may be another rank's";
  EXPECT_GT(outside_bytes(backend), 1700) << "with room for what comes later";
}

// Between steps there may be more than at the end.
TEST(Backend, WhatIsOutsideTheArenaIsRememberedAtItsPeak) {
  std::int64_t now = 1000;
  Backend backend = test::make_separate_backend(false, [&] { return now; });
  OutsidePeak peak(backend);
  EXPECT_EQ(peak.look(), 1000);
  now = 9000;
  EXPECT_EQ(peak.look(), 9000);
  now = 2000;
  EXPECT_EQ(peak.look(), 9000);
  backend.sharing_ranks = 2;
  now = 20000;
  EXPECT_EQ(peak.look(), 9000) << "what changes may be another rank's";
}

// Communicators keep memory of the device, some of it only when they are first used; a mesh in the place of another has
// closed those of the other.
TEST(Backend, GroupsOfADeviceAreMeasured) {
  const auto world = std::make_shared<test::FakeNcclWorld>();
  const Mesh first{.data = 4, .shards = 2}, second{.data = 2, .pipeline = 2};
  std::mutex mutex;
  std::map<std::pair<std::string, std::vector<int>>, std::vector<std::shared_ptr<Transport>>> made;
  const auto faults = test::on_ranks(4, [&](const Group& control) -> std::string {
    const int rank = control.rank();
    std::atomic<std::int64_t> kept = 1000;
    const auto library = std::make_shared<test::FakeNccl>(world);
    std::set<std::string> used;
    library->answer = [&](const std::string& call) {
      if (call.starts_with("ncclCommInitRankConfig")) kept += 10;
      if (call.starts_with("ncclCommDestroy")) kept -= 10;
      const std::string name = call.substr(0, call.find_first_of(" ,"));
      for (const char* known : {"ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclSend", "ncclRecv"}) {
        if (name == known) used.insert(name);
      }
      return kNcclSuccess;
    };
    Backend backend = test::make_separate_backend_over({TransportName::Nccl, library, ""}, fmt::format("GPU {}", rank),
                                                       [&] { return kept + static_cast<std::int64_t>(used.size()); });
    const auto make = [&](const Mesh& mesh) {
      return connect_groups(backend, mesh, rank, [&](const std::string& axis, const std::vector<int>& ranks) {
        std::shared_ptr<Transport> below;
        {
          const std::lock_guard lock(mutex);
          auto& all = made[{fmt::format("{} of {}", axis, mesh.pipeline), ranks}];
          if (all.empty()) all = make_local_transports(static_cast<int>(ranks.size()));
          below = all[static_cast<std::size_t>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin())];
        }
        return Group(axis, transport_over(backend)(axis, std::move(below), nullptr));
      });
    };
    Groups groups = make(first);
    if (backend.group_bytes != 4 * 10 + 3) return fmt::format("{} bytes of four groups", backend.group_bytes);
    // World, data, replica and embedding; of the pipeline, each way, all stages together and each direction of a pair.
    groups = make(second);
    if (backend.group_bytes != 10 * 10 + 2) return fmt::format("{} bytes of six groups", backend.group_bytes);
    backend.transports->close();
    return kept == 1000 ? "" : "not all were closed";
  });
  EXPECT_EQ(faults, std::vector<std::string>(4));
}

// A GPU without a data sheet is measured, for all ranks.
TEST(Backend, UnknownGpusAreMeasured) {
  const auto find = [](const char* other) {
    std::array gpus{gpu(1, 'a'), gpu(1, 'b', other)};
    gpus[0].memory_bytes = 7;
    std::array<FoundGpu, 2> found;
    const auto faults = test::on_ranks(2, [&](const Group& control) -> std::string {
      Backend backend = test::make_separate_backend(false, [] { return 1; });
      found[static_cast<std::size_t>(control.rank())] = find_gpus(gpus, control, backend);
      return "";
    });
    EXPECT_EQ(faults, std::vector<std::string>(2));
    EXPECT_EQ(found[0].measured, found[1].measured);
    EXPECT_EQ(found[0].name, "NVIDIA H200");
    EXPECT_EQ(found[1].name, "NVIDIA H200");
    EXPECT_EQ(found[0].memory_bytes, 7);
    return found[0];
  };
  EXPECT_FALSE(find("NVIDIA H200").measured);
  const FoundGpu measured = find("NVIDIA X1");
  ASSERT_TRUE(measured.measured);
  EXPECT_GT(measured.measured->matmul.bf16, 1e7);
}

// What one rank's GPU has no fused kernels for, no rank plans to have them for.
TEST(Backend, RanksPlanForTheKernelsThatAllTheirGpusHave) {
  const auto found = [](std::initializer_list<int> capabilities, std::int64_t cudnn_of_last = kOldestCudnn) {
    std::vector<RankGpu> gpus;
    for (const int capability : capabilities) {
      gpus.push_back(gpu(1, static_cast<char>('a' + gpus.size())));
      gpus.back().compute_capability = capability;
      gpus.back().cudnn = kOldestCudnn;
    }
    gpus.back().cudnn = cudnn_of_last;
    const Group control("control", make_self_transport());
    Backend backend;
    return find_gpus(gpus, control, backend).fused_heads;
  };
  EXPECT_EQ(found({90, 90}), (FusedHeads{256, 256}));
  EXPECT_EQ(found({90, 80}), (FusedHeads{256, 128}));
  EXPECT_EQ(found({80, 90}), (FusedHeads{256, 128}));
  EXPECT_EQ(found({90, 120, 90}), fused_heads(120)) << "a higher capability is not a wider head";
  EXPECT_EQ(found({75, 90}), FusedHeads{});
  EXPECT_EQ(found({90, 90}, 92000), (FusedHeads{256, 256}));
  for (const std::int64_t cudnn : {std::int64_t{0}, kOldestCudnn - 1})
    EXPECT_EQ(found({90, 90}, cudnn), (FusedHeads{0, 0})) << cudnn;
}

TEST(Backend, SaysWhoHasNoFusedAttentionAndWhatToDo) {
  std::array gpus{gpu(1, 'a'), gpu(1, 'b')};
  gpus[0].cudnn = gpus[1].cudnn = kOldestCudnn;
  EXPECT_EQ(unfused_reason(gpus), "");
  gpus[1].cudnn = 91002;
  EXPECT_EQ(unfused_reason(gpus),
            "the CUDA module of rank 1 has cuDNN 9.10.2: kernels without tensor cores compute attention, and all ranks "
            "plan for that; install cuDNN 9.15.1 or later");
  gpus[0].cudnn = 0;
  EXPECT_EQ(unfused_reason(gpus),
            "the CUDA module of rank 0 has no cuDNN: kernels without tensor cores compute attention, and all ranks "
            "plan for that; build it where CMake finds cuDNN 9.15.1 or later");
  gpus[0].cudnn = gpus[1].cudnn = kOldestCudnn;
  gpus[0].compute_capability = gpus[1].compute_capability = 90;
  EXPECT_EQ(common_fused_heads(gpus), fused_heads(90));
  gpus[1].attends = false;
  EXPECT_EQ(common_fused_heads(gpus), (FusedHeads{0, 0}));
  EXPECT_EQ(
      unfused_reason(gpus),
      "the CUDA module of rank 1 has cuDNN 9.15.1, which has no plan for it: kernels without tensor cores compute "
      "attention, and all ranks plan for that; that rank's warning says why; where NVRTC (libnvrtc, "
      "libnvrtc-builtins) of CUDA is missing, install it");
}

TEST(Backend, SaysWhyThereIsNoGpu) {
  EXPECT_EQ(missing_gpu_text(0, "", 2, 13000, 13000, nullptr), "");
  EXPECT_EQ(missing_gpu_text(kCudaInsufficientDriver, "", 0, 0, 13000, nullptr),
            "this machine has no NVIDIA driver (libcuda.so.1)");
  EXPECT_EQ(missing_gpu_text(kCudaInsufficientDriver, "", 0, 12040, 13000, nullptr),
            "the NVIDIA driver is for CUDA 12.4 at most, this build needs 13.0");
  EXPECT_EQ(missing_gpu_text(kCudaNoDevice, "", 0, 13000, 13000, nullptr), "the driver finds no GPU");
  EXPECT_EQ(missing_gpu_text(0, "", 0, 13000, 13000, ""), "the driver shows no GPU: CUDA_VISIBLE_DEVICES is ''");
  EXPECT_EQ(missing_gpu_text(999, "unknown error", 0, 13000, 13000, "0"),
            "the driver reports: unknown error (code 999)");
}

// What make_backend() throws for `device: cuda`; skips where it works.
Error fault_of(Config& config, const Place& place) {
  const Group control("control", make_self_transport());
  try {
    make_backend(config, place, control, 1);
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::Internal, "none"};
}

TEST(Backend, CudaIsRefusedWithTheReason) {
  Config config =
      parse_config("model: {preset: gpt2-124m}\ndata: {train: none, sequence: 8}\ndevice: cuda\n", "f.yaml");
  const Error error = fault_of(config, {});
  if (!cuda_is_built()) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    EXPECT_STREQ(error.what(), "f.yaml:3:9: device: is cuda, but this build has none: build the preset cuda");
    return;
  }
  if (error.kind() == ErrorKind::Internal) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(error.kind(), ErrorKind::Device) << error.what();
  EXPECT_TRUE(std::string_view(error.what()).starts_with("device: cuda: ")) << error.what();
}

TEST(Backend, OfTheCpuSharesTheMemoryOfTheHost) {
  Config config = parse_config("model: {preset: gpt2-124m}\ndata: {train: none, sequence: 8}\n", "f.yaml");
  const Group control("control", make_self_transport());
  const Backend backend = make_backend(config, {0, 4, 0, 4}, control, 1);
  EXPECT_EQ(backend.sharing_ranks, 4);
  EXPECT_EQ(backend.device->outside_bytes(), std::nullopt);
  EXPECT_LE(choose_budget(config, backend), backend.device->memory().total_bytes / 4);
}

}  // namespace
}  // namespace plimsoll
