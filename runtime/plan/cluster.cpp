#include "runtime/plan/cluster.hpp"

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
    default: return 0;
  }
}

KeyTable<ClusterDescription> cluster_keys() {
  using C = ClusterDescription;
  return {.keys = {
              section("device", &C::device, device_keys()),
              key("devices_per_node", &C::devices_per_node, between(1, 1 << 20), "devices", "ranks of a node"),
              key("nodes", &C::nodes, between(1, 1 << 20), "nodes", "auto: as many as the ranks need"),
              section("inside", &C::inside, link_keys()),
              section("between", &C::between, link_keys()),
          }};
}

}  // namespace plimsoll
