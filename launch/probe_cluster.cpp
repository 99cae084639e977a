#include "launch/probe_cluster.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "kernels/cpu/gemm_rate.hpp"
#include "kernels/cpu/register.hpp"
#include "launch/process.hpp"
#include "launch/unit_of_work.hpp"
#include "runtime/core/median.hpp"
#include "runtime/core/text.hpp"
#include "runtime/tensor/convert.hpp"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;
constexpr LinkOperation kOperations[]{LinkOperation::SendReceive, LinkOperation::ReduceScatter,
                                      LinkOperation::AllGather, LinkOperation::AllReduce};
constexpr int kRepetitions = 7;

// Axes that carry what other axes do: control, and the pipeline in its other direction.
bool is_measured(std::string_view axis) { return axis != "world" && axis != "pipeline_back"; }

// Of ranks of which some may have none: the slowest table, on all of them.
std::vector<LinkSample> slowest(const Group& control, const std::vector<LinkSample>& mine) {
  const auto count = static_cast<std::size_t>(control.max(static_cast<double>(mine.size())));
  std::vector<LinkSample> all;
  for (std::size_t i = 0; i < count; ++i) {
    const LinkSample here = i < mine.size() ? mine[i] : LinkSample{0, 0};
    all.push_back({static_cast<std::int64_t>(control.max(static_cast<double>(here.bytes))), control.max(here.seconds)});
  }
  return all;
}

// Median seconds of a call, after one that warms up.
template <class F>
double seconds_of(const F& call) {
  call();
  std::vector<double> times;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto begin = Clock::now();
    call();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return std::max(median(std::move(times)), 1e-9);
}

// Seconds of the forward kernel of an op without whole numbers, on inputs of ones.
template <class Op>
struct TimedKernel {
  double seconds = 0, flops = 0;
  std::int64_t bytes = 0;  // of all its slots

  TimedKernel(const typename Op::Attrs& attrs, SlotSpecs specs, DType dtype, int threads) {
    const Attrs attributes(std::in_place_index<op_id<Op>>, attrs);
    op_info(op_id<Op>).infer(attributes, specs);
    std::array<View, kMaxSlots> values;
    std::vector<std::vector<std::byte>> memory;
    for (std::size_t s = 0; s < Op::slots.size(); ++s) {
      if (!specs.has(static_cast<int>(s))) continue;
      const TensorSpec& spec = specs[static_cast<int>(s)];
      auto& buffer = memory.emplace_back(static_cast<std::size_t>(spec.bytes()));
      values[s] = {buffer.data(), spec};
      bytes += spec.bytes();
      const std::vector<float> ones(static_cast<std::size_t>(spec.elements()), 1.0F);
      convert_elements(DType::f32, ones.data(), spec.dtype, buffer.data(), spec.elements());
    }
    std::vector<std::byte> scratch(
        static_cast<std::size_t>(Op::workspace_bytes(attrs, specs, Phase::Forward, threads)) + 64);
    const StepInputs inputs;
    KernelArgs args;
    args.value = values.data();
    args.attributes = &attributes;
    args.workspace = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64;
    args.threads = threads;
    args.inputs = &inputs;
    const Kernel kernel = cpu_kernels().find(op_id<Op>, Phase::Forward, dtype);
    flops = static_cast<double>(Op::flops(attrs, specs, Phase::Forward));
    seconds = seconds_of([&] { kernel(args); });
  }
};

double attention_flops_per_s(DType dtype, int threads) {
  const Attention::Attrs attrs{{12, 12, 64}, 0.125, 0, 1};
  SlotSpecs specs;
  specs.set(Attention::kQkv, {{1, 512, attrs.layout.packed_width()}, dtype});
  const TimedKernel<Attention> kernel(attrs, specs, dtype, threads);
  return kernel.flops / kernel.seconds;
}

double elementwise_bytes_per_s(int threads) {
  constexpr std::int64_t kElements = std::int64_t{8} << 20;  // of three arrays: beyond any cache
  SlotSpecs specs;
  specs.set(Add::kA, {{kElements}, DType::f32});
  specs.set(Add::kB, {{kElements}, DType::f32});
  const TimedKernel<Add> kernel({}, specs, DType::f32, threads);
  return static_cast<double>(kernel.bytes) / kernel.seconds;
}

double copied_bytes_per_s() {
  constexpr std::size_t kBytes = std::size_t{32} << 20;
  const std::vector<std::byte> from(kBytes, std::byte{1});
  std::vector<std::byte> to(kBytes);
  return static_cast<double>(kBytes) / seconds_of([&] { std::memcpy(to.data(), from.data(), kBytes); });
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

void measure_slowdowns(const Group& control, const Groups& groups, int threads, std::vector<MeasuredLink>& links) {
  constexpr double kLong_s = 0.05;  // messages as long as those that compute hides
  omp_set_num_threads(threads);
  const UnitOfWork work;
  for (MeasuredLink& link : links) {
    if (link.operation == LinkOperation::SendReceive) continue;
    std::size_t size = 0;
    while (size + 1 < link.bytes.size() && link.seconds[size] < kLong_s) ++size;
    const auto group = groups.find(link.axis);
    const bool here = group != groups.end() && group->second.size() > 1;
    link.slows = control.max(here ? probe_slowdown(group->second, link.operation, link.bytes[size], work) : 0);
  }
}

DeviceDescription measure_device(const Group& control, int threads, int local_ranks) {
  const auto of_slowest = [&](double rate) { return -control.max(-rate); };
  const auto of_largest = [&](std::int64_t bytes) {
    return static_cast<std::int64_t>(control.max(static_cast<double>(bytes)));
  };
  omp_set_num_threads(threads);  // products follow this
  DeviceDescription device;
  device.name = fmt::format("{}, {} thread{}", cpu_model(), threads, threads == 1 ? "" : "s");
  control.barrier();
  const auto rates = [&](const auto& rate) {
    return PrecisionRates{of_slowest(rate(DType::f64)), of_slowest(rate(DType::f32)), of_slowest(rate(DType::bf16)),
                          of_slowest(rate(DType::f16))};
  };
  device.matmul = rates([&](DType dtype) { return measure_gemm_gflops(threads, dtype) * 1e9; });
  device.attention = rates([&](DType dtype) { return attention_flops_per_s(dtype, threads); });
  device.peak = device.matmul;
  device.memory_bytes_per_s = of_slowest(elementwise_bytes_per_s(threads));
  device.host.bytes_per_s = of_slowest(copied_bytes_per_s());
  device.memory_bytes = -of_largest(-make_cpu_device(1)->memory().total_bytes / local_ranks);
  device.outside_bytes = of_largest(outside_arena_bytes());
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
  return fmt::format("{:<9}{:<15}{:>3} ranks, {} apart: {:>9.1f} us + {} /s, {} in {:.4g} ms", link.axis,
                     to_text(link.operation), link.ranks, link.stride, line.latency_s * 1e6,
                     format_bytes(static_cast<std::int64_t>(line.bytes_per_s)), format_bytes(link.bytes.back()),
                     link.seconds.back() * 1e3);
}

}  // namespace plimsoll
