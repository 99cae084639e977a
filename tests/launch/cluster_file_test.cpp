// Descriptions of clusters: the committed files, and what is said about wrong ones.

#include "launch/cluster_file.hpp"
#include "runtime/plan/device_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(PLIMSOLL_SOURCE_DIR) / "configs/clusters";

std::string faults(const std::string& yaml) {
  try {
    parse_cluster(yaml, "c.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
    return error.what();
  }
  return {};
}

TEST(ClusterFile, EveryCommittedFileIsReadAndSensible) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const ClusterDescription c = load_cluster(entry.path().string());
    const DeviceDescription& d = c.device;
    EXPECT_FALSE(d.name.empty()) << entry.path();
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      EXPECT_LE(d.matmul.of(dtype), d.peak.of(dtype)) << entry.path() << " " << dtype_name(dtype);
      EXPECT_LE(d.attention.of(dtype), d.matmul.of(dtype)) << entry.path() << " " << dtype_name(dtype);
    }
    EXPECT_GT(d.matmul.fp32, 0) << entry.path();
    EXPECT_LT(d.outside_bytes, d.memory_bytes) << entry.path();
    EXPECT_LT(c.inside.latency_s, c.between.latency_s) << entry.path();
    EXPECT_GT(c.inside.bytes_per_s, c.between.bytes_per_s) << entry.path();
  }
  EXPECT_EQ(files, 4);
}

TEST(ClusterFile, PeaksAreThoseOfTheDeviceTable) {
  for (const char* name : {"a100", "h100", "h200"}) {
    const DeviceDescription device = load_cluster((kFolder / fmt::format("{}.yaml", name)).string()).device;
    const GpuDataSheet* gpu = find_gpu(device.name);
    ASSERT_NE(gpu, nullptr) << device.name;
    EXPECT_EQ(device.peak, gpu->peak) << name;
  }
  const ClusterDescription file = load_cluster((kFolder / "h200.yaml").string());
  const ClusterDescription table = describe_gpus(*find_gpu("H200"), file.device.memory_bytes, false);
  EXPECT_NEAR(table.inside.bytes_per_s, file.inside.bytes_per_s, 0.05 * file.inside.bytes_per_s);
  EXPECT_EQ(table.inside.latency_s, file.inside.latency_s);
  EXPECT_EQ(table.between, file.between);
  EXPECT_EQ(table.devices_per_node, file.devices_per_node);
}

TEST(ClusterFile, TheCpuFileIsTheDefault) {
  EXPECT_EQ(load_cluster((kFolder / "cpu.yaml").string()), ClusterDescription{});
}

TEST(ClusterFile, WhatIsWrittenIsReadBack) {
  ClusterDescription c;
  c.device.name = "a: device # with \"marks\"";
  c.device.matmul.fp32 = 123456789012.5;
  c.nodes = 3;
  c.inside = {1.25e-5, 3.1e9};
  EXPECT_EQ(parse_cluster(write_cluster(c, "# nothing measured\n"), "c.yaml"), c);
  c.measured.push_back({"data", LinkOperation::AllReduce, 4, 2, {1024, 4096}, {1.5e-5, 2.25e-5}, 0.25});
  c.measured.push_back({"tensor", LinkOperation::SendReceive, 2, 1, {8}, {1e-6}});
  const std::string text = write_cluster(c, "# measured\n");
  EXPECT_EQ(text.rfind("# measured\n", 0), 0U);
  EXPECT_EQ(parse_cluster(text, "c.yaml"), c);
}

TEST(ClusterFile, FaultsOfMeasurementsNameTheirPlace) {
  const std::string good = write_cluster({}, "");
  const auto fault = [&](const std::string& entry) { return faults(good + "measured:\n  - " + entry + "\n"); };
  const std::string line = std::to_string(std::count(good.begin(), good.end(), '\n') + 2);
  const std::string rest = "axis: data, operation: all_reduce, ranks: 2, stride: 1, ";
  EXPECT_EQ(fault("{" + rest + "bytes: [1, 2], seconds: [1, 2]}"), "");
  for (const auto& [entry, text] : std::vector<std::pair<std::string, std::string>>{
           {"{" + rest + "bytes: [1, 2], seconds: [1]}", "measured[0].seconds: 1 times for 2 sizes"},
           {"{" + rest + "bytes: [], seconds: []}", "measured[0].seconds: 0 times for 0 sizes"},
           {"{" + rest + "bytes: [2, 2], seconds: [1, 2]}", "measured[0].bytes: the sizes do not rise"},
           {"{" + rest + "bytes: [1], seconds: [0]}", "measured[0].seconds: "},
           {"{" + rest + "bytes: [x], seconds: [1]}", "measured[0].bytes: expected an integer, got 'x'"},
           {"{" + rest + "bytes: [1]}", "measured[0].seconds: is required"},
           {"{" + rest + "bytes: [1], seconds: [1], slows: 1}", "measured[0].slows: "},
           {"{" + rest + "bites: [1]}", "unknown key 'bites' in 'measured[0]'"},
           {"{axis: data, operation: all_reduced, ranks: 2, stride: 1, bytes: [1], seconds: [1]}",
            "measured[0].operation: "},
           {"{axis: data, operation: all_reduce, ranks: 1, stride: 1, bytes: [1], seconds: [1]}",
            "measured[0].ranks: "},
           {"[1, 2]", "measured[0]: expected a map"}}) {
    const std::string said = fault(entry);
    EXPECT_NE(said.find(text), std::string::npos) << said;
    EXPECT_EQ(said.rfind("c.yaml:" + line + ":", 0), 0U) << said;
  }
}

TEST(ClusterFile, FaultsNameTheirPlace) {
  EXPECT_NE(faults("devices_per_node: none\n").find("c.yaml:1:19: devices_per_node: expected an integer, got 'none'"),
            std::string::npos);
  EXPECT_NE(faults("device:\n  memory: auto\n").find("c.yaml:2:11: device.memory: expected a size, got 'auto'"),
            std::string::npos);
  EXPECT_NE(faults("inside: {bytes_per_s: 0}\n").find("c.yaml:1:23: inside.bytes_per_s"), std::string::npos);
  EXPECT_NE(faults("inside: {latency: 1}\n").find("c.yaml:1:10: unknown key 'latency' in 'inside'"), std::string::npos);
  // A figure that is missing is not taken from elsewhere.
  const std::string missing = faults("devices_per_node: 8\n");
  for (const char* key : {"device: is required", "nodes: is required", "inside: is required", "between: is required"})
    EXPECT_NE(missing.find(key), std::string::npos) << missing;
  EXPECT_NE(faults("device: {peak: {fp32: 1}}\n").find("device.peak.bf16: is required"), std::string::npos);
  EXPECT_THROW(load_cluster((kFolder / "none.yaml").string()), Error);
}

}  // namespace
}  // namespace plimsoll
