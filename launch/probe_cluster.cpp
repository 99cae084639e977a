#include "launch/probe_cluster.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "kernels/cpu/gemm_rate.hpp"
#include "launch/device_rates.hpp"
#include "launch/node_runner.hpp"
#include "runtime/core/median.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

constexpr LinkOperation kOperations[]{LinkOperation::SendReceive, LinkOperation::ReduceScatter,
                                      LinkOperation::AllGather, LinkOperation::AllReduce};

// Axes that carry what other axes do: control, and the pipeline in its other direction.
bool is_measured(std::string_view axis) { return axis != "world" && axis != "pipeline_back"; }

// Of ranks of which some may have none: the slowest table, on all of them, of the sizes that all groups measured: a
// slow one may have ended before the others.
std::vector<LinkSample> slowest(const Group& control, const std::vector<LinkSample>& mine) {
  constexpr double kNone = std::numeric_limits<double>::max();
  const double least = -control.max(-(mine.empty() ? kNone : static_cast<double>(mine.size())));
  const std::size_t count = least < kNone ? static_cast<std::size_t>(least) : 0;
  std::vector<LinkSample> all;
  for (std::size_t i = 0; i < count; ++i) {
    const LinkSample here = i < mine.size() ? mine[i] : LinkSample{0, 0};
    all.push_back({static_cast<std::int64_t>(control.max(static_cast<double>(here.bytes))), control.max(here.seconds)});
  }
  return all;
}

}  // namespace

std::vector<MeasuredLink> measure_links(const Group& control, const Mesh& mesh, const Groups& groups,
                                        const ProbeOptions& options,
                                        const std::function<void(const MeasuredLink&)>& told) {
  std::vector<MeasuredLink> links;
  std::set<std::pair<int, int>> seen;
  for (const std::string_view axis : kMeshAxes) {
    // Rank 0 is in a group of every axis that has any.
    const auto ranks = static_cast<int>(axis_group(mesh, 0, axis).size());
    const int stride = axis_stride(mesh, axis);
    if (!is_measured(axis) || ranks == 1 || !seen.emplace(ranks, stride).second) continue;
    const Group& group = groups.find(axis)->second;
    for (const LinkOperation operation : kOperations) {
      std::vector<LinkSample> mine;
      if (group.size() > 1) mine = probe(group, operation, options).samples();
      MeasuredLink link{std::string(axis), operation, ranks, stride, {}, {}, 0};
      for (const LinkSample& sample : slowest(control, mine)) {
        link.bytes.push_back(sample.bytes);
        link.seconds.push_back(sample.seconds);
      }
      if (told) told(link);
      links.push_back(std::move(link));
    }
  }
  return links;
}

void measure_slowdowns(const Group& control, const Groups& groups, Backend& backend, int threads, const ProbePlace& on,
                       std::vector<MeasuredLink>& links) {
  constexpr double kLong_s = 0.05;  // messages as long as those that compute hides
  omp_set_num_threads(threads);     // products follow this
  const std::unique_ptr<Stream> compute = backend.device->make_stream(StreamKind::Compute);
  LoneProduct work(backend, *compute, LoneProduct::kShort);
  for (MeasuredLink& link : links) {
    if (link.operation == LinkOperation::SendReceive) continue;
    std::size_t size = 0;
    while (size + 1 < link.bytes.size() && link.seconds[size] < kLong_s) ++size;
    const auto group = groups.find(link.axis);
    const bool here = group != groups.end() && group->second.size() > 1;
    const auto slows = [&] {
      return probe_slowdown(
          group->second, link.operation, link.bytes[size], [&] { work.run(); }, on);
    };
    link.slows = control.max(here ? slows() : 0);
  }
}

DeviceDescription measure_device(const Group& control, Backend& backend, int threads) {
  const auto of_slowest = [&](double rate) { return -control.max(-rate); };
  const auto of_largest = [&](std::int64_t bytes) {
    return static_cast<std::int64_t>(control.max(static_cast<double>(bytes)));
  };
  const bool on_host = !backend.device->outside_bytes();
  omp_set_num_threads(threads);  // products follow this
  DeviceDescription device;
  device.name = on_host ? fmt::format("{}, {} thread{}", backend.name, threads, threads == 1 ? "" : "s") : backend.name;
  control.barrier();
  const auto rates = [&](const auto& rate) {
    return PrecisionRates{of_slowest(rate(DType::f64)), of_slowest(rate(DType::f32)), of_slowest(rate(DType::bf16)),
                          of_slowest(rate(DType::f16)), of_slowest(rate(DType::f8e4m3))};
  };
  // Of the host, the products alone: what MFU is a share of there.
  device.matmul = rates([&](DType dtype) {
    return on_host && !is_fp8(dtype) ? measure_gemm_gflops(threads, dtype) * 1e9 : product_flops_per_s(backend, dtype);
  });
  device.attention = rates([&](DType dtype) { return is_fp8(dtype) ? 0 : attention_flops_per_s(backend, dtype); });
  device.peak =
      rates([&](DType dtype) { return backend.peak.of(dtype) > 0 ? backend.peak.of(dtype) : device.matmul.of(dtype); });
  device.memory_bytes_per_s = of_slowest(elementwise_bytes_per_s(backend));
  device.host.bytes_per_s = of_slowest(copied_bytes_per_s(backend));
  device.memory_bytes = -of_largest(-backend.device->memory().total_bytes / backend.sharing_ranks);
  device.outside_bytes = of_largest(outside_bytes(backend));
  return device;
}

std::string fit_links(ClusterDescription& cluster, const Mesh& mesh, const std::vector<std::uint64_t>& hosts) {
  bool inside = false, between = false;
  for (const MeasuredLink& link : cluster.measured) {
    if (link.operation != LinkOperation::SendReceive) continue;
    bool one_host = true;
    for (int rank = 0; rank < mesh.ranks(); ++rank) {
      for (const int other : axis_group(mesh, rank, link.axis))
        one_host = one_host && hosts[static_cast<std::size_t>(other)] == hosts[static_cast<std::size_t>(rank)];
    }
    bool& known = one_host ? inside : between;
    if (known) continue;
    known = true;
    const LinkLine line = link.table().fit();
    (one_host ? cluster.inside : cluster.between) = {line.latency_s, line.bytes_per_s};
  }
  if (inside && between) return "";
  if (!inside && !between) return "no two ranks exchanged messages: `inside` and `between` are a guess";
  if (inside) {
    cluster.between = cluster.inside;
    return "all groups were inside hosts: `between` is what was measured inside";
  }
  cluster.inside = cluster.between;
  return "no group was inside a host: `inside` is what was measured between hosts";
}

LinkErrors link_errors(const std::vector<MeasuredLink>& links, const std::vector<MeasuredLink>& later) {
  LinkErrors errors;
  std::vector<double> all;
  for (const MeasuredLink& link : later) {
    const auto known = std::find_if(links.begin(), links.end(), [&](const MeasuredLink& l) {
      return l.operation == link.operation && l.ranks == link.ranks && l.stride == link.stride;
    });
    if (known == links.end()) continue;
    const LinkTable table = known->table();
    std::vector<double> here;
    for (std::size_t i = 0; i < link.bytes.size(); ++i)
      here.push_back(std::abs(table.seconds(static_cast<double>(link.bytes[i])) / link.seconds[i] - 1));
    all.insert(all.end(), here.begin(), here.end());
    errors.tables.emplace_back(link, median(std::move(here)));
  }
  if (!all.empty()) errors.median = median(std::move(all));
  return errors;
}

std::string to_text(const MeasuredLink& link) {
  const LinkLine line = link.table().fit();
  constexpr double kMost = 1e18;  // beyond, sizes made no difference
  const std::string rate =
      line.bytes_per_s < kMost ? format_bytes(static_cast<std::int64_t>(line.bytes_per_s)) + " /s" : "no rate";
  return fmt::format("{:<9}{:<15}{:>3} ranks, {} apart: {:>9.1f} us + {}, {} in {:.4g} ms", link.axis,
                     to_text(link.operation), link.ranks, link.stride, line.latency_s * 1e6, rate,
                     format_bytes(link.bytes.back()), link.seconds.back() * 1e3);
}

}  // namespace plimsoll
