#include "runtime/plan/device_table.hpp"

namespace plimsoll {
namespace {

// The boards of the A100 differ in memory and links.
constexpr PrecisionRates kA100{19.5e12, 19.5e12, 312e12, 312e12, 0};
constexpr double kTf32OfA100 = 156e12;

// Data sheets of NVIDIA. Longer names stand before those that they begin with.
constexpr std::array kGpus{
    GpuDataSheet{"A100-SXM4-40GB", 80, kA100, kTf32OfA100, 1.555e12, 300e9},
    GpuDataSheet{"A100-SXM4-80GB", 80, kA100, kTf32OfA100, 2.039e12, 300e9},
    GpuDataSheet{"A100-PCIE-40GB", 80, kA100, kTf32OfA100, 1.555e12, 32e9},
    GpuDataSheet{"A100 80GB PCIe", 80, kA100, kTf32OfA100, 1.935e12, 32e9},
    GpuDataSheet{"A100", 80, kA100, kTf32OfA100, 2.039e12, 300e9},
    GpuDataSheet{"H100 PCIe", 90, {51e12, 51e12, 756e12, 756e12, 1513e12}, 378e12, 2.0e12, 64e9},
    GpuDataSheet{"H100 NVL", 90, {60e12, 60e12, 835.5e12, 835.5e12, 1671e12}, 417.7e12, 3.9e12, 64e9},
    GpuDataSheet{"H100", 90, {67e12, 67e12, 989.4e12, 989.4e12, 1978.9e12}, 494.7e12, 3.35e12, 450e9},
    GpuDataSheet{"H200 NVL", 90, {60e12, 60e12, 835.5e12, 835.5e12, 1671e12}, 417.7e12, 4.8e12, 64e9},
    GpuDataSheet{"H200", 90, {67e12, 67e12, 989.4e12, 989.4e12, 1978.9e12}, 494.7e12, 4.8e12, 450e9},
    GpuDataSheet{"B200", 100, {37e12, 75e12, 2250e12, 2250e12, 4500e12}, 1125e12, 7.7e12, 900e9},
    GpuDataSheet{"L40S", 89, {1.4e12, 91.6e12, 362e12, 362e12, 733e12}, 183e12, 0.864e12, 32e9},
    GpuDataSheet{"GeForce RTX 4090", 89, {1.3e12, 82.6e12, 165.2e12, 165.2e12, 330.3e12}, 82.6e12, 1.008e12, 32e9},
    GpuDataSheet{"GeForce RTX 5090", 120, {1.6e12, 104.8e12, 209.5e12, 209.5e12, 419e12}, 104.8e12, 1.792e12, 64e9},
};

ClusterDescription nodes_of(const DeviceDescription& device, double link_bytes_per_s) {
  ClusterDescription cluster;
  cluster.device = device;
  cluster.devices_per_node = 8;
  cluster.inside = {8e-6, 0.8 * link_bytes_per_s};
  cluster.between = {20e-6, 45e9};
  return cluster;
}

}  // namespace

const GpuDataSheet* find_gpu(std::string_view driver_name) {
  constexpr std::string_view kMaker = "NVIDIA ";
  if (driver_name.starts_with(kMaker)) driver_name.remove_prefix(kMaker.size());
  if (driver_name.find(" MIG ") != std::string_view::npos) return nullptr;  // a part of a board
  for (const GpuDataSheet& gpu : kGpus) {
    if (!driver_name.starts_with(gpu.name)) continue;
    const std::string_view rest = driver_name.substr(gpu.name.size());
    // "RTX 4090 Laptop GPU" and "RTX 5090 D" are others; "A100-SXM4-80GB" and "H100 80GB HBM3" are not.
    const bool consumer = gpu.name.starts_with("GeForce");
    if (rest.empty() || (!consumer && (rest.front() == ' ' || rest.front() == '-'))) return &gpu;
  }
  return nullptr;
}

double peak_rate(const GpuDataSheet& gpu, DType dtype, bool tf32) {
  return dtype == DType::f32 && tf32 ? gpu.tf32 : gpu.peak.of(dtype);
}

DeviceDescription describe_gpu(const GpuDataSheet& gpu, std::int64_t memory_bytes, bool tf32) {
  PrecisionRates peak = gpu.peak;
  if (tf32) peak.fp32 = gpu.tf32;
  const auto share = [&](double of_peak) {
    return PrecisionRates{of_peak * peak.fp64, of_peak * peak.fp32, of_peak * peak.bf16, of_peak * peak.fp16,
                          of_peak * peak.fp8};
  };
  DeviceDescription device;
  device.name = gpu.name;
  device.matmul = share(2.0 / 3);
  device.attention = share(0.5);
  device.attention.fp32 = 0.5 * gpu.peak.fp32;  // our own kernels, in floats
  device.attention.fp8 = 0;
  device.peak = peak;
  device.memory_bytes_per_s = 0.75 * gpu.memory_bytes_per_s;
  device.kernel_overhead_s = 3e-6;
  device.memory_bytes = memory_bytes;
  device.outside_bytes = std::int64_t{3} << 30;
  device.host = {10e-6, 55e9};
  return device;
}

ClusterDescription describe_gpus(const GpuDataSheet& gpu, std::int64_t memory_bytes, bool tf32) {
  return nodes_of(describe_gpu(gpu, memory_bytes, tf32), gpu.link_bytes_per_s);
}

ClusterDescription describe_gpus(const DeviceDescription& measured) {
  constexpr double kPcieLink = 32e9;
  return nodes_of(measured, kPcieLink);
}

}  // namespace plimsoll
