#include "runtime/plan/cluster.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/core/keys.hpp"

namespace plimsoll {
namespace {

KeyTable<PrecisionRates> rate_keys() {
  using C = PrecisionRates;
  return {.keys = {
              key("fp64", &C::fp64, at_least(0), "FLOP/s", "0: not in this precision"),
              key("fp32", &C::fp32, at_least(0), "FLOP/s", "0: not in this precision"),
              key("bf16", &C::bf16, at_least(0), "FLOP/s", "0: not in this precision"),
              key("fp16", &C::fp16, at_least(0), "FLOP/s", "0: not in this precision"),
              key("fp8", &C::fp8, at_least(0), "FLOP/s", "e4m3 and e5m2; 0: not in this precision"),
          }};
}

KeyTable<LinkDescription> link_keys() {
  using C = LinkDescription;
  return {.keys = {
              key("latency_s", &C::latency_s, at_least(0), "s", "of a message without bytes"),
              key("bytes_per_s", &C::bytes_per_s, above(0), "bytes/s", "of a device, each way"),
          }};
}

// A size that has no `auto`.
Key<DeviceDescription> size_key(std::string name, std::int64_t DeviceDescription::*member, Range range,
                                std::string meaning) {
  return {std::move(name),
          "size",
          "bytes",
          range.text(),
          std::move(meaning),
          [member, range](DeviceDescription& device, const ConfigNode& node, const KeyScope& scope) {
            std::optional<std::int64_t> bytes;
            if (!read_bytes(node, range, scope, bytes)) return;
            if (bytes) {
              device.*member = *bytes;
            } else {
              scope.fault(node, "expected a size, got 'auto'");
            }
          },
          [member](const DeviceDescription& device) { return write_bytes(device.*member); }};
}

// A list of positive numbers.
template <class T>
Key<MeasuredLink> numbers_key(std::string name, std::vector<T> MeasuredLink::*member, std::string unit,
                              std::string meaning) {
  return {std::move(name),
          "list of numbers",
          std::move(unit),
          above(0).text(),
          std::move(meaning),
          [member](MeasuredLink& link, const ConfigNode& node, const KeyScope& scope) {
            if (!expect_list(node, scope)) return;
            for (const ConfigNode& item : node.items) {
              if (T value{}; read_value(item, above(0), scope, value)) (link.*member).push_back(value);
            }
          },
          [member](const MeasuredLink& link) {
            std::vector<ConfigNode> items;
            for (const T value : link.*member) items.push_back(write_value(value));
            return ConfigNode::list(std::move(items));
          }};
}

KeyTable<MeasuredLink> measured_keys() {
  using C = MeasuredLink;
  return {.keys = {
              key("axis", &C::axis, "where it was measured"),
              key("operation", &C::operation, "what was measured"),
              key("ranks", &C::ranks, between(2, 1 << 20), "ranks", "of a group"),
              key("stride", &C::stride, between(1, 1 << 20), "ranks", "between neighbours of a group"),
              numbers_key("bytes", &C::bytes, "bytes", "of the whole tensor, rising"),
              numbers_key("seconds", &C::seconds, "s", "for each of the sizes"),
              key("slows", &C::slows, from_below(0, 1), "", "share of the work beside it that a rank loses meanwhile"),
          }};
}

void read_measured(ClusterDescription& cluster, const ConfigNode& node, const KeyScope& scope) {
  cluster.measured.clear();
  if (!expect_list(node, scope)) return;
  const KeyTable<MeasuredLink> keys = measured_keys();
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    const ConfigNode& item = node.items[i];
    const KeyScope here{fmt::format("{}[{}]", scope.path, i), scope.errors, nullptr};
    const std::size_t before = scope.errors->size();
    MeasuredLink link;
    keys.read(link, item, here);
    for (const std::string& name : keys.names()) {
      if (name != "slows" && item.entry(name) == nullptr) here.child(name).fault(item, "is required");
    }
    if (scope.errors->size() > before) continue;
    if (link.bytes.empty() || link.bytes.size() != link.seconds.size()) {
      here.child("seconds").fault(item.entry("seconds")->value,
                                  fmt::format("{} times for {} sizes", link.seconds.size(), link.bytes.size()));
    } else if (std::adjacent_find(link.bytes.begin(), link.bytes.end(), std::greater_equal<>()) != link.bytes.end()) {
      here.child("bytes").fault(item.entry("bytes")->value, "the sizes do not rise");
    } else {
      cluster.measured.push_back(std::move(link));
    }
  }
}

ConfigNode write_measured(const ClusterDescription& cluster) {
  std::vector<ConfigNode> items;
  for (const MeasuredLink& link : cluster.measured) items.push_back(measured_keys().write(link));
  return ConfigNode::list(std::move(items));
}

KeyTable<DeviceDescription> device_keys() {
  using C = DeviceDescription;
  return {.keys = {
              key("name", &C::name, "what it is"),
              section("matmul", &C::matmul, rate_keys()),
              section("attention", &C::attention, rate_keys()),
              section("peak", &C::peak, rate_keys()),
              key("memory_bytes_per_s", &C::memory_bytes_per_s, above(0), "bytes/s", "of elementwise kernels"),
              key("kernel_overhead_s", &C::kernel_overhead_s, at_least(0), "s", "between kernels"),
              size_key("memory", &C::memory_bytes, above(0), "of a device"),
              size_key("outside", &C::outside_bytes, at_least(0), "of it, outside the arena"),
              section("host", &C::host, link_keys()),
          }};
}

}  // namespace

double PrecisionRates::of(DType dtype) const {
  switch (dtype) {
    case DType::f64: return fp64;
    case DType::f32: return fp32;
    case DType::bf16: return bf16;
    case DType::f16: return fp16;
    case DType::f8e4m3:
    case DType::f8e5m2: return fp8;
    default: return 0;
  }
}

LinkTable MeasuredLink::table() const {
  std::vector<LinkSample> samples;
  for (std::size_t i = 0; i < bytes.size(); ++i) samples.push_back({bytes[i], seconds[i]});
  return LinkTable(std::move(samples));
}

KeyTable<ClusterDescription> cluster_keys() {
  using C = ClusterDescription;
  return {.keys = {
              section("device", &C::device, device_keys()),
              key("devices_per_node", &C::devices_per_node, between(1, 1 << 20), "devices", "ranks of a node"),
              key("nodes", &C::nodes, between(1, 1 << 20), "nodes", "auto: as many as the ranks need"),
              section("inside", &C::inside, link_keys()),
              section("between", &C::between, link_keys()),
              {"measured", "list of maps", "", "",
               "axis, operation, ranks, stride, bytes, seconds, slows; may be left out", read_measured, write_measured},
          }};
}

}  // namespace plimsoll
