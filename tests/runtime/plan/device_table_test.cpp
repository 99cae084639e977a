#include "runtime/plan/device_table.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(DeviceTable, FindsTheDeviceByTheNameOfItsDriver) {
  struct Row {
    const char *driver, *name;
    int compute_capability = 0;
  };
  const Row rows[] = {
      {"NVIDIA H200", "H200", 90},
      {"NVIDIA H200 NVL", "H200 NVL", 90},
      {"NVIDIA H100 80GB HBM3", "H100", 90},
      {"NVIDIA H100 PCIe", "H100 PCIe", 90},
      {"NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB", 80},
      {"NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB", 80},
      {"NVIDIA A100-PCIE-40GB", "A100-PCIE-40GB", 80},
      {"NVIDIA A100 80GB PCIe", "A100 80GB PCIe", 80},
      {"NVIDIA A100-SXM-64GB", "A100", 80},
      {"NVIDIA B200", "B200", 100},
      {"NVIDIA L40S", "L40S", 89},
      {"NVIDIA GeForce RTX 4090", "GeForce RTX 4090", 89},
      {"NVIDIA GeForce RTX 5090", "GeForce RTX 5090", 120},
      {"NVIDIA GeForce RTX 4090 Laptop GPU", ""},
      {"NVIDIA GeForce RTX 5090 D", ""},
      {"NVIDIA A100-SXM4-40GB MIG 1g.5gb", ""},
      {"NVIDIA H100 80GB HBM3 MIG 3g.40gb", ""},
      {"NVIDIA A1000", ""},
      {"NVIDIA A100X", ""},
      {"NVIDIA L40", ""},
      {"", ""},
  };
  for (const auto& [driver, expected, compute_capability] : rows) {
    const GpuDataSheet* gpu = find_gpu(driver);
    EXPECT_EQ(gpu == nullptr ? "" : gpu->name, expected) << driver;
    EXPECT_EQ(gpu == nullptr ? 0 : gpu->compute_capability, compute_capability) << driver;
  }
}

// They multiply alike.
TEST(DeviceTable, BoardsOfTheA100DifferInMemoryAndLinks) {
  struct Board {
    const char* driver;
    double memory, link;
  };
  for (const Board& board :
       {Board{"NVIDIA A100-SXM4-40GB", 1.555e12, 300e9}, Board{"NVIDIA A100-SXM4-80GB", 2.039e12, 300e9},
        Board{"NVIDIA A100-PCIE-40GB", 1.555e12, 32e9}, Board{"NVIDIA A100 80GB PCIe", 1.935e12, 32e9}}) {
    const GpuDataSheet* gpu = find_gpu(board.driver);
    ASSERT_NE(gpu, nullptr) << board.driver;
    EXPECT_EQ(gpu->memory_bytes_per_s, board.memory) << board.driver;
    EXPECT_EQ(gpu->link_bytes_per_s, board.link) << board.driver;
    EXPECT_EQ(peak_rate(*gpu, DType::bf16, false), 312e12) << board.driver;
    EXPECT_EQ(peak_rate(*gpu, DType::f32, true), 156e12) << board.driver;
  }
}

TEST(DeviceTable, PeaksFollowThePrecision) {
  const GpuDataSheet& h200 = *find_gpu("NVIDIA H200");
  EXPECT_EQ(peak_rate(h200, DType::bf16, false), 989.4e12);
  EXPECT_EQ(peak_rate(h200, DType::f32, false), 67e12);
  EXPECT_EQ(peak_rate(h200, DType::f32, true), 494.7e12);
  EXPECT_EQ(peak_rate(h200, DType::bf16, true), 989.4e12);
  EXPECT_EQ(peak_rate(h200, DType::f8e4m3, false), 1978.9e12);
  EXPECT_EQ(peak_rate(*find_gpu("NVIDIA A100-SXM4-80GB"), DType::f8e4m3, false), 0);
}

TEST(DeviceTable, DescribesADeviceBelowItsPeaks) {
  const DeviceDescription d = describe_gpu(*find_gpu("NVIDIA H200"), std::int64_t{140} << 30, false);
  EXPECT_EQ(d.memory_bytes, std::int64_t{140} << 30);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    EXPECT_GT(d.attention.of(dtype), 0);
    EXPECT_LT(d.attention.of(dtype), d.matmul.of(dtype));
    EXPECT_LT(d.matmul.of(dtype), d.peak.of(dtype));
  }
  EXPECT_GT(d.matmul.of(DType::f8e5m2), d.matmul.of(DType::bf16));
  EXPECT_LT(d.matmul.of(DType::f8e5m2), d.peak.of(DType::f8e5m2));
  const DeviceDescription tf32 = describe_gpu(*find_gpu("NVIDIA H200"), std::int64_t{140} << 30, true);
  EXPECT_GT(tf32.matmul.fp32, d.matmul.fp32);
  EXPECT_EQ(tf32.attention.fp32, d.attention.fp32) << "our own attention does not round to TF32";
}

// What has no row is planned for as it was measured, and not as another device.
TEST(DeviceTable, DescribesNodesOfAMeasuredDevice) {
  DeviceDescription measured;
  measured.name = "another GPU";
  measured.matmul.bf16 = 123e12;
  const ClusterDescription nodes = describe_gpus(measured);
  EXPECT_EQ(nodes.device, measured);
  EXPECT_EQ(nodes.between, describe_gpus(*find_gpu("H200"), 1, false).between);
  EXPECT_LT(nodes.inside.bytes_per_s, describe_gpus(*find_gpu("H200"), 1, false).inside.bytes_per_s);
}

}  // namespace
}  // namespace plimsoll
