#include "launch/backend.hpp"

#include <gtest/gtest.h>

#include "comm/group.hpp"
#include "kernels/cuda_errors.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/run_setup.hpp"

namespace plimsoll {
namespace {

RankGpu gpu(std::uint64_t host, char address) {
  RankGpu g;
  g.host = host;
  g.bus_id[0] = address;
  return g;
}

TEST(Backend, RanksThatShareAGpuAreFound) {
  EXPECT_EQ(shared_gpu(std::array{gpu(1, 'a'), gpu(1, 'b'), gpu(2, 'a'), gpu(2, 'b')}), std::nullopt);
  EXPECT_EQ(shared_gpu(std::array{gpu(1, 'a')}), std::nullopt);
  EXPECT_EQ(shared_gpu(std::array{gpu(1, 'a'), gpu(1, 'b'), gpu(2, 'b'), gpu(1, 'b')}),
            "ranks 1 and 3 have the same GPU (b)");
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
