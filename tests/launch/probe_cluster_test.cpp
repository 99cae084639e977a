// What a probe finds out about a mesh of threads, and that plans can be made with it.

#include "launch/probe_cluster.hpp"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "launch/cluster_file.hpp"
#include "runtime/plan/cost.hpp"
#include "tests/comm/fake_nccl.hpp"
#include "tests/support/local_mesh.hpp"
#include "tests/support/separate_device.hpp"
#include "tests/support/slow_transport.hpp"

namespace plimsoll {
namespace {

const ProbeOptions kQuick{.largest_bytes = 1 << 14, .repetitions = 2};

std::map<int, std::vector<MeasuredLink>> measured_on(const Mesh& mesh) {
  std::mutex mutex;
  std::map<int, std::vector<MeasuredLink>> all;
  test::on_mesh(mesh, [&](int rank, const Groups& groups) {
    std::vector<MeasuredLink> mine = measure_links(groups.find("world")->second, mesh, groups, kQuick);
    const std::lock_guard lock(mutex);
    all[rank] = std::move(mine);
  });
  return all;
}

TEST(ProbeCluster, EveryAxisAndOperationOnceAndAlikeOnAllRanks) {
  // Tensor groups are neighbours, replicas two apart, stages four; the embedding group is like the pipeline's.
  const Mesh mesh{.data = 2, .pipeline = 2, .tensor = 2, .shards = 2};
  const auto all = measured_on(mesh);
  ASSERT_EQ(all.size(), 8U);
  for (const auto& [rank, links] : all) EXPECT_EQ(links, all.at(0)) << rank;
  std::set<std::tuple<std::int64_t, std::int64_t, LinkOperation>> found;
  for (const MeasuredLink& link : all.at(0)) {
    EXPECT_EQ(link.bytes.size(), 5U);
    EXPECT_EQ(link.table().samples().size(), 5U) << "a valid table";
    EXPECT_TRUE(found.emplace(link.ranks, link.stride, link.operation).second);
  }
  std::set<std::tuple<std::int64_t, std::int64_t, LinkOperation>> expected;
  for (const std::int64_t stride : {1, 2, 4}) {
    for (int o = 0; o < kLinkOperations; ++o) expected.emplace(2, stride, static_cast<LinkOperation>(o));
  }
  EXPECT_EQ(found, expected);
}

TEST(ProbeCluster, ErrorsOfTablesAreThoseOfTheirPredictions) {
  const MeasuredLink table{"data", LinkOperation::AllReduce, 2, 1, {1 << 20, 1 << 22}, {1e-3, 4e-3}};
  const MeasuredLink later{"data", LinkOperation::AllReduce, 2, 1, {1 << 21, 1 << 22, 1 << 23}, {2e-3, 5e-3, 4e-3}};
  MeasuredLink other = later;
  other.ranks = 3;
  const LinkErrors errors = link_errors({table}, {other, later});
  ASSERT_EQ(errors.tables.size(), 1U);
  EXPECT_EQ(errors.tables.front().first, later);
  EXPECT_NEAR(errors.tables.front().second, 0.2, 1e-9);  // of 0, 20 and 100 %
  EXPECT_NEAR(errors.median, 0.2, 1e-9);
  EXPECT_EQ(link_errors({other}, {later}).median, 0);
}

// Of three stages the middle one is not in the embedding group, and still has its table.
TEST(ProbeCluster, RanksOutsideOfAGroupHaveItsTable) {
  const auto all = measured_on({.pipeline = 3});
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all.at(1), all.at(0));
  EXPECT_EQ(all.at(0).size(), 8U);
  EXPECT_EQ(all.at(0).back().axis, "embedding");
  EXPECT_EQ(all.at(0).back().stride, 2);
}

// Of two groups of an axis, one is slow: no rank has sizes that it did not measure.
TEST(ProbeCluster, ATableEndsWhereTheSlowestGroupEnded) {
  const Mesh mesh{.data = 2, .tensor = 2, .shards = 2};
  const ProbeOptions options{.largest_bytes = 1 << 14, .repetitions = 1, .longest_s = 0.05};
  std::mutex mutex;
  std::map<int, std::vector<MeasuredLink>> all;
  test::on_mesh(
      mesh,
      [&](int rank, const Groups& groups) {
        std::vector<MeasuredLink> mine = measure_links(groups.find("world")->second, mesh, groups, options);
        const std::lock_guard lock(mutex);
        all[rank] = std::move(mine);
      },
      [](int rank, const std::string& axis, std::shared_ptr<Transport> below) -> std::shared_ptr<Transport> {
        if (axis != "tensor" || rank < 2) return below;
        return std::make_shared<test::SlowTransport>(std::move(below), 1 << 12);
      });
  for (const auto& [rank, links] : all) EXPECT_EQ(links, all.at(0)) << rank;
  for (const MeasuredLink& link : all.at(0)) {
    // Of two ranks, each sends halves in a collective.
    const std::int64_t slow = link.operation == LinkOperation::SendReceive ? 1 << 12 : 1 << 13;
    if (link.axis == "tensor") {
      EXPECT_LE(link.bytes.back(), slow) << to_text(link.operation);
    }
  }
}

MeasuredLink line_of(const std::string& axis, std::int64_t stride, const LinkLine& line) {
  MeasuredLink link{axis, LinkOperation::SendReceive, 2, stride, {}, {}};
  const LinkTable table(line);
  for (const LinkSample& s : table.samples()) {
    link.bytes.push_back(s.bytes);
    link.seconds.push_back(s.seconds);
  }
  return link;
}

TEST(ProbeCluster, LinksInsideAndBetweenHosts) {
  const Mesh mesh{.data = 2, .tensor = 2};
  const MeasuredLink tensor = line_of("tensor", 1, {1e-6, 4e9}), data = line_of("data", 2, {1e-4, 1e8});
  const auto fit = [&](const std::vector<MeasuredLink>& links, const std::vector<std::uint64_t>& hosts,
                       std::string& said) {
    ClusterDescription cluster;
    cluster.measured = links;
    said = fit_links(cluster, mesh, hosts);
    return cluster;
  };
  std::string said;
  const ClusterDescription both = fit({data, tensor}, {7, 7, 9, 9}, said);
  EXPECT_EQ(said, "");
  EXPECT_NEAR(both.inside.bytes_per_s, 4e9, 1e3);
  EXPECT_NEAR(both.between.latency_s, 1e-4, 1e-9);
  const ClusterDescription near = fit({data, tensor}, {7, 7, 7, 7}, said);
  EXPECT_NE(said.find("inside hosts"), std::string::npos) << said;
  EXPECT_EQ(near.between, near.inside);
  const ClusterDescription far = fit({data}, {1, 2, 3, 4}, said);
  EXPECT_NE(said.find("no group was inside"), std::string::npos) << said;
  EXPECT_EQ(far.between, far.inside);
  EXPECT_NEAR(far.inside.bytes_per_s, 1e8, 1);
  fit({}, {1, 1, 1, 1}, said);
  EXPECT_NE(said.find("a guess"), std::string::npos) << said;
}

TEST(ProbeCluster, WhatIsMeasuredIsReadBackAndUsed) {
  const Mesh mesh{.data = 2};
  std::mutex mutex;
  ClusterDescription cluster;
  test::on_mesh(mesh, [&](int rank, const Groups& groups) {
    const Group& control = groups.find("world")->second;
    ClusterDescription mine;
    Backend backend = make_cpu_backend(1);
    backend.sharing_ranks = 2;
    mine.device = measure_device(control, backend, 1);
    mine.measured = measure_links(control, mesh, groups, kQuick);
    const std::lock_guard lock(mutex);
    if (rank == 0) cluster = mine;
  });
  const DeviceDescription& d = cluster.device;
  for (const double rate :
       {d.matmul.fp64, d.matmul.fp32, d.matmul.bf16, d.matmul.fp16, d.attention.fp64, d.attention.fp32,
        d.attention.bf16, d.attention.fp16, d.memory_bytes_per_s, d.host.bytes_per_s}) {
    EXPECT_GT(rate, 1e7);
    EXPECT_LT(rate, 1e15);
  }
  EXPECT_GT(d.memory_bytes, d.outside_bytes);
  const ClusterDescription read = parse_cluster(write_cluster(cluster, "# a probe\n"), "c.yaml");
  ASSERT_EQ(read.measured.size(), cluster.measured.size());
  EXPECT_EQ(read.measured.back().bytes, cluster.measured.back().bytes);
  const DescribedCosts costs(read);
  const MeasuredLink& sums = read.measured.back();
  ASSERT_EQ(sums.operation, LinkOperation::AllReduce);
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::AllReduce, sums.bytes.back(), 2, 1), sums.seconds.back());
}

// The links and rates of devices whose memory the host does not reach, through host memory and by calls of a library.
TEST(ProbeCluster, MeasuresDevices) {
  const Mesh mesh{.data = 2};
  const auto world = std::make_shared<test::FakeNcclWorld>();
  for (const TransportName name : {TransportName::Staged, TransportName::Nccl}) {
    std::array<std::vector<MeasuredLink>, 2> seen;
    std::array<DeviceDescription, 2> devices;
    std::array<Backend, 2> backends;
    for (std::size_t rank = 0; rank < 2; ++rank) {
      const auto library = name == TransportName::Nccl ? std::make_shared<test::FakeNccl>(world) : nullptr;
      backends[rank] =
          test::make_separate_backend_over({name, library, ""}, fmt::format("GPU {}", rank), [] { return 1000; });
      backends[rank].peak.bf16 = 5e12;
    }
    test::on_mesh(
        mesh,
        [&](int rank, const Groups& groups) {
          const auto at = static_cast<std::size_t>(rank);
          const auto stream = backends[at].device->make_stream(StreamKind::Communication);
          ProbeOptions options = kQuick;
          options.on = {backends[at].device.get(), stream.get()};
          const Group& control = groups.find("world")->second;
          seen[at] = measure_links(control, mesh, groups, options);
          devices[at] = measure_device(control, backends[at], 1);
        },
        [&](int rank, const std::string& axis, std::shared_ptr<Transport> below) {
          return backends[static_cast<std::size_t>(rank)].transports->over(axis, std::move(below), nullptr);
        });
    ASSERT_EQ(seen[0].size(), 4U);
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_EQ(devices[0], devices[1]);
    EXPECT_EQ(devices[0].name, "separate");
    EXPECT_EQ(devices[0].peak.bf16, 5e12) << "of the data sheet";
    EXPECT_EQ(devices[0].peak.fp32, devices[0].matmul.fp32) << "for want of one";
    for (const double rate : {devices[0].matmul.fp32, devices[0].matmul.bf16, devices[0].attention.fp16,
                              devices[0].memory_bytes_per_s, devices[0].host.bytes_per_s}) {
      EXPECT_GT(rate, 1e7);
      EXPECT_LT(rate, 1e15);
    }
  }
}

}  // namespace
}  // namespace plimsoll
