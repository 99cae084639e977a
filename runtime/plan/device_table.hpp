#pragma once
// What the data sheets of GPUs say, once: MFU is a share of these rates, and a run that no cluster file describes is
// planned with them. Which kernels a described device has follows from its row too, by its name.

#include <optional>
#include <string_view>

#include "runtime/plan/cluster.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

struct GpuDataSheet {
  std::string_view name;       // what the driver's name begins with, after "NVIDIA "
  int compute_capability = 0;  // ten times it: 89 is 8.9
  PrecisionRates peak;         // of tensor cores, dense, sums in fp32; fp32 without TF32
  double tf32 = 0;
  double memory_bytes_per_s = 0;
  double link_bytes_per_s = 0;  // each way, to the others of a node: NVLink of SXM boards, else PCIe
};

// The row that fits best; null: an unknown device. "NVIDIA H100 PCIe" is not "H100", and a
// MIG instance ("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is none of them.
const GpuDataSheet* find_gpu(std::string_view driver_name);
// FLOP/s of matrix products in `dtype`; 0 where it has none.
double peak_rate(const GpuDataSheet& gpu, DType dtype, bool tf32);
// A description to plan with: two thirds of the peak for large products, half for attention (none in fp8), three
// quarters of the memory's rate (what an H200 was measured to sustain), everything else as that of an H200.
DeviceDescription describe_gpu(const GpuDataSheet& gpu, std::int64_t memory_bytes, bool tf32);
// Nodes of eight of them: four fifths of the link's rate, and the network of configs/clusters/h200.yaml.
ClusterDescription describe_gpus(const GpuDataSheet& gpu, std::int64_t memory_bytes, bool tf32);
// Nodes of eight of a device that has no row here and was measured: four fifths of a PCIe 4.0 link, the same network.
ClusterDescription describe_gpus(const DeviceDescription& measured);

}  // namespace plimsoll
