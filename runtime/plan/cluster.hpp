#pragma once
// What a plan is made for: a device, the nodes that hold some of them, and the links between. Files of configs/clusters
// say it for machines that nobody has measured here; the defaults are those of configs/clusters/cpu.yaml. Rates are
// those of one device (one rank); a rate of 0 means that the device does not compute in that precision.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/keys_fwd.hpp"
#include "runtime/plan/link_table.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// FLOP/s by precision of the operands; fp8 with sums in fp32 (runtime/ops/fp8.hpp).
struct PrecisionRates {
  double fp64 = 0, fp32 = 0, bf16 = 0, fp16 = 0, fp8 = 0;
  double of(DType dtype) const;  // 0 for other dtypes
  bool operator==(const PrecisionRates&) const = default;
};

// A message of m bytes from one device takes latency_s + m / bytes_per_s.
struct LinkDescription {
  double latency_s = 0, bytes_per_s = 1;
  bool operator==(const LinkDescription&) const = default;
};

struct DeviceDescription {
  std::string name = "cpu core";
  PrecisionRates matmul{75e9, 150e9, 200e9, 120e9, 180e9};  // sustained by large matrix products
  PrecisionRates attention{20e9, 40e9, 40e9, 35e9};         // sustained by attention, causal FLOPs
  PrecisionRates peak{96e9, 192e9, 384e9, 192e9, 384e9};    // of the data sheet: what MFU is a share of
  double memory_bytes_per_s = 8e9;  // sustained by elementwise kernels, reads and writes together
  double kernel_overhead_s = 4e-6;  // from the end of one kernel to the beginning of the next
  std::int64_t memory_bytes = std::int64_t{4} << 30;
  std::int64_t outside_bytes = std::int64_t{160} << 20;  // that the arena cannot have: context, libraries
  LinkDescription host{1e-6, 6e9};                       // to the memory of the node
  bool operator==(const DeviceDescription&) const = default;
};

// What a probe measured (comm/probe.hpp): an operation over groups of `ranks` ranks that are `stride` apart, all groups
// of the axis at the same time.
struct MeasuredLink {
  std::string axis;  // on which they were: for people
  LinkOperation operation = LinkOperation::AllReduce;
  std::int64_t ranks = 2, stride = 1;
  std::vector<std::int64_t> bytes;  // as LinkLine has them; at least one, rising, positive
  std::vector<double> seconds;      // of each size, positive
  double slows = 0;                 // of the work beside it, a rank loses this share while it runs; in [0, 1)
  LinkTable table() const;
  bool operator==(const MeasuredLink&) const = default;
};

struct ClusterDescription {
  DeviceDescription device;
  std::int64_t devices_per_node = 16;
  std::optional<std::int64_t> nodes;       // nullopt: auto, as many as the ranks need
  LinkDescription inside{10e-6, 2.5e9};    // between devices of a node; per device, each way
  LinkDescription between{30e-6, 1.25e9};  // between nodes; per device, each way
  // Where an operation over such groups was measured, its table counts instead of a line. May be empty.
  std::vector<MeasuredLink> measured;
  bool operator==(const ClusterDescription&) const = default;
};

KeyTable<ClusterDescription> cluster_keys();

}  // namespace plimsoll
