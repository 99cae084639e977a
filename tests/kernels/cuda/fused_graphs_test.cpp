// cuDNN's plans for attention on GPUs that are described and need not be there: that it takes the graphs of
// fused_graphs.hpp where the declaration of attention says so, within the planned workspace, and not elsewhere. Making
// a plan compiles its kernel; what that computes, only a GPU shows (cuda_gpu_test.cpp).

#include "kernels/cuda/fused_graphs.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <string>
#include <utility>

#include "runtime/ops/attention_device.hpp"

namespace plimsoll::cuda {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

struct Gpu {
  const char* name;
  int compute_capability, processors, shared_kib, clock_mhz, memory_clock_mhz, l2_mib;
};
const Gpu kH200{"NVIDIA H200", 90, 132, 228, 1980, 3201, 60};
const Gpu kA100{"NVIDIA A100-SXM4-80GB", 80, 108, 164, 1410, 1593, 40};

std::ostream& operator<<(std::ostream& out, const Gpu& gpu) { return out << gpu.name; }

// As the library describes a GPU that is there.
std::string json_of(const Gpu& gpu) {
  return nlohmann::json{
      {"deviceName", gpu.name},
      {"deviceVer", gpu.compute_capability * 10},
      {"cudaDeviceId", 0},
      {"pciDeviceId", 0},
      {"driverVer", 13000},
      {"isTccDriver", 0},
      {"supportCoopLaunch", 1},
      {"multiProcessorCount", gpu.processors},
      {"warpSize", 32},
      {"maxGridSize", {2147483647, 65535, 65535}},
      {"maxBlockSize", {1024, 1024, 64}},
      {"maxThreadsPerBlock", 1024},
      {"maxThreadsPerSM", 2048},
      {"maxCtasPerSM", 32},
      {"regsPerBlock", 65536},
      {"maxRegistersPerSM", 65536},
      {"maxSharedMemoryPerBlock", 48 << 10},
      {"maxSharedMemoryPerBlockOptin", (gpu.shared_kib - 1) << 10},
      {"reservedSharedMemoryPerBlock", 1 << 10},
      {"maxSharedMemoryPerSM", gpu.shared_kib << 10},
      {"smClockRateKHz", gpu.clock_mhz * 1000},
      {"memClockRateKHz", gpu.memory_clock_mhz * 1000},
      {"l2CacheSize", gpu.l2_mib << 20},
      {"totalGlobalMem", std::int64_t{80} << 30},
  }
      .dump();
}

// Of a node of attention.
struct Node {
  HeadLayout layout;
  std::int64_t batch, length;
  DType dtype = DType::bf16;
};

std::string last_error() {
  std::array<char, 4096> text{};
  cudnnGetLastErrorString(text.data(), text.size());
  return text.data();
}

class FusedGraphs : public testing::TestWithParam<Gpu> {
 protected:
  void SetUp() override {
    ASSERT_NE(dlopen(DRIVER_STUB, RTLD_NOW | RTLD_GLOBAL), nullptr) << dlerror();
    if (cudnnGetVersion() < std::size_t{kOldestCudnn})
      GTEST_SKIP() << fmt::format("attention needs cuDNN {}, this is {}", kOldestCudnn, cudnnGetVersion());
    cudnnBackendDescriptor_t raw = nullptr;
    ASSERT_EQ(cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &raw), CUDNN_STATUS_SUCCESS);
    device_.reset(raw);
    const std::string json = json_of(GetParam());
    ASSERT_EQ(cudnnBackendSetAttribute(raw, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                       static_cast<std::int64_t>(json.size()) + 1, json.c_str()),
              CUDNN_STATUS_SUCCESS);
    ASSERT_EQ(cudnnBackendFinalize(raw), CUDNN_STATUS_SUCCESS) << last_error();
    // Without NVRTC there is no plan at all, and that is all that is forgiven: a plan that is missing for any other
    // reason is a graph that is wrong, or a function that driver_stub.cpp lacks.
    if (plan(Phase::Forward, {{1, 1, 64}, 1, 128}, {0, 1, 0, 1}, kFusedForwardBytes).plan != nullptr) return;
    const std::string reason = last_error();
    if (reason.find("cannot load libnvrtc") != std::string::npos) GTEST_SKIP() << "cuDNN finds no NVRTC";
    FAIL() << "no plan for one head: " << reason;
  }

  // Packed as the runtime packs them, of some samples and heads.
  CudnnPlan plan(Phase phase, const Node& n, const FusedSlice& slice, std::int64_t workspace_bytes) const {
    const std::int64_t width = n.layout.packed_width(), out_width = n.layout.output_width();
    const FusedShape shape{
        n.dtype,          slice.samples, heads_of(n, slice),   slice.kv_heads, n.length, n.layout.head_dim,
        width * n.length, width,         out_width * n.length, out_width};
    return (phase == Phase::Forward ? plan_fused_forward : plan_fused_backward)(shape, nullptr, workspace_bytes,
                                                                                device_.get());
  }
  static std::int64_t heads_of(const Node& n, const FusedSlice& slice) {
    return slice.kv_heads * (n.layout.heads / n.layout.kv_heads);
  }

  // A plan within the planned workspace for every slice of those nodes that are the library's; no plan for the others.
  void expect_as_declared(const Node& n) const {
    for (const Phase phase : {Phase::Forward, Phase::InputGrad}) {
      SCOPED_TRACE(fmt::format("{} of {} in {}: {} x {} tokens, {} heads of {}, {} of keys",
                               phase == Phase::Forward ? "forward" : "backward", dtype_name(n.dtype), GetParam().name,
                               n.batch, n.length, n.layout.heads, n.layout.head_dim, n.layout.kv_heads));
      Attention::Attrs attrs{n.layout, 0.125};
      attrs.fused_heads = fused_heads(GetParam().compute_capability);
      SlotSpecs specs;
      specs.set(Attention::kQkv, {{n.batch, n.length, n.layout.packed_width()}, n.dtype});
      const FusedSlices slices = fused_slices(attrs, specs, phase);
      if (slices.samples == 0) {
        EXPECT_EQ(plan(phase, n, {0, n.batch, 0, n.layout.kv_heads}, kNoLimit).plan, nullptr);
        continue;
      }
      std::set<std::pair<std::int64_t, std::int64_t>> seen;
      for_each_slice(slices, n.batch, n.layout.kv_heads, [&](const FusedSlice& slice) {
        if (seen.emplace(slice.samples, slice.kv_heads).second) expect_plan(phase, n, slice, slices.bytes);
      });
    }
  }

 private:
  // The library's first choice: within fewer bytes it may have another, slower one.
  void expect_plan(Phase phase, const Node& n, const FusedSlice& slice, std::int64_t bytes) const {
    const std::int64_t heads = heads_of(n, slice);
    const bool forward = phase == Phase::Forward;
    const std::int64_t sums = forward ? 0 : row_sums_bytes(slice.samples, heads, n.length);
    const std::int64_t own =
        forward ? kFusedForwardBytes
                : fused_backward_bytes(slice.samples, heads, slice.kv_heads, n.length, n.layout.head_dim);
    EXPECT_LE(own, bytes);
    const CudnnPlan made = plan(phase, n, slice, kNoLimit);
    ASSERT_NE(made.plan, nullptr) << last_error();
    EXPECT_LE(made.workspace_bytes, own - sums);
    EXPECT_EQ(made.uids.size(), forward ? 7U : 13U);
  }

  Descriptor device_;
};

TEST_P(FusedGraphs, HaveShapesOfTraining) {
  const HeadLayout gpt2_124m{12, 12, 64}, gpt2_1558m{25, 25, 64}, llama_1b{32, 8, 64}, llama_8b{32, 8, 128};
  for (const Node& n : {Node{gpt2_124m, 32, 1024}, Node{gpt2_1558m, 16, 1024}, Node{gpt2_1558m, 5, 4096},
                        Node{llama_1b, 8, 2048}, Node{llama_1b, 2, 4096, DType::f16}, Node{llama_8b, 1, 8192}})
    expect_as_declared(n);
}

TEST_P(FusedGraphs, HaveLengthsThatFillNoTile) {
  for (const std::int64_t length : {2, 7, 33, 130}) {
    expect_as_declared({{6, 6, 64}, 2, length, DType::f16});
    expect_as_declared({{6, 2, 128}, 3, length});
  }
}

// Those that are declared and no others. Forward has plans for wider heads than documented, which nobody asks for.
TEST_P(FusedGraphs, HaveTheHeadsThatAreDeclared) {
  for (const int head_dim : {8, 60, 64, 128, 136, 192, 256}) expect_as_declared({{4, 4, head_dim}, 2, 256});
  for (const int head_dim : {60, 128, 256}) expect_as_declared({{4, 2, head_dim}, 1, 130, DType::f16});
  const Node wide{{4, 4, 264}, 2, 256};
  EXPECT_EQ(plan(Phase::InputGrad, wide, {0, 2, 0, 4}, kNoLimit).plan, nullptr);
}

INSTANTIATE_TEST_SUITE_P(Gpus, FusedGraphs, testing::Values(kH200, kA100),
                         [](const auto& gpu) { return fmt::format("sm{}", gpu.param.compute_capability); });

}  // namespace
}  // namespace plimsoll::cuda
