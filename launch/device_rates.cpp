#include "launch/device_rates.hpp"

#include <algorithm>

#include "launch/node_runner.hpp"
#include "runtime/core/median.hpp"

namespace plimsoll {
namespace {

constexpr int kRepetitions = 7;
constexpr double kLongEnough_s = 1e-3;
constexpr std::int64_t kCopied = std::int64_t{32} << 20;

// Median of what the stream takes, after one launch that warms up.
template <class Launch>
double seconds_of(Device& device, Stream& stream, const Launch& launch) {
  const auto timer = device.make_timer();
  const auto once = [&] {
    timer->start(stream);
    launch();
    timer->stop(stream);
    return timer->seconds();
  };
  once();
  std::vector<double> times;
  for (int i = 0; i < kRepetitions; ++i) times.push_back(once());
  return std::max(median(std::move(times)), 1e-9);
}

// The best work / seconds of make(size), for sizes from `least` on, doubling, to `most`.
template <class Make, class Work>
double best_rate(Backend& backend, std::int64_t least, std::int64_t most, const Make& make, const Work& work) {
  Device& device = *backend.device;
  const auto stream = device.make_stream(StreamKind::Compute);
  const std::int64_t room = device.memory().free_bytes / backend.sharing_ranks / 4;
  double best = 0;
  for (std::int64_t size = least; size <= most; size *= 2) {
    const Node node = make(size);
    const Kernel kernel = NodeRunner::kernel_of(backend.kernels, node);
    if (kernel == nullptr || (size > least && NodeRunner::bytes(node, backend.threads) > room)) break;
    NodeRunner runner(device, *stream, kernel, node, backend.threads);
    const double seconds = seconds_of(device, *stream, [&] { runner.launch(); });
    best = std::max(best, work(node) / seconds);
    if (seconds >= kLongEnough_s) break;
  }
  return best;
}

double flops_of(const Node& node) {
  return static_cast<double>(op_info(node.op).flops(node.attrs, node.specs, node.phase));
}

double fp8_product_flops_per_s(Backend& backend) {
  if (!backend.fp8) return 0;
  const auto square = [](std::int64_t size) {
    SlotSpecs specs;
    for (const int slot : {int{LinearFp8::kX}, int{LinearFp8::kWeight}}) specs.set(slot, {{size, size}, DType::bf16});
    specs.set(LinearFp8::kX8, {{size, size}, DType::f8e4m3});
    specs.set(LinearFp8::kScaling, {{2, kFp8Roles}, DType::f32});
    return lone_node<LinearFp8>({}, specs);
  };
  return best_rate(backend, 512, 16384, square, flops_of);
}

}  // namespace

double product_flops_per_s(Backend& backend, DType dtype) {
  if (is_fp8(dtype)) return fp8_product_flops_per_s(backend);
  const auto square = [&](std::int64_t size) {
    SlotSpecs specs;
    for (const int slot : {int{Linear::kX}, int{Linear::kWeight}}) specs.set(slot, {{size, size}, dtype});
    return lone_node<Linear>({}, specs);
  };
  return best_rate(backend, 512, 16384, square, flops_of);
}

double attention_flops_per_s(Backend& backend, DType dtype) {
  Attention::Attrs attrs{{12, 12, 64}, 0.125, 0, 1};
  attrs.fused_heads = backend.fused_heads;
  const auto samples = [&](std::int64_t size) {
    SlotSpecs specs;
    specs.set(Attention::kQkv, {{size, 512, attrs.layout.packed_width()}, dtype});
    return lone_node<Attention>(attrs, specs);
  };
  return best_rate(backend, 1, 256, samples, flops_of);
}

double elementwise_bytes_per_s(Backend& backend) {
  const auto sum = [](std::int64_t elements) {  // of three arrays: the least is beyond the cache of a CPU
    SlotSpecs specs;
    for (const int slot : {int{Add::kA}, int{Add::kB}}) specs.set(slot, {{elements}, DType::f32});
    return lone_node<Add>({}, specs);
  };
  const auto bytes = [](const Node& node) { return 3.0 * static_cast<double>(node.specs[Add::kA].bytes()); };
  return best_rate(backend, std::int64_t{8} << 20, std::int64_t{256} << 20, sum, bytes);
}

double copied_bytes_per_s(Backend& backend) {
  Device& device = *backend.device;
  const auto stream = device.make_stream(StreamKind::Copy);
  DeviceBuffer to(device, kCopied);
  void* from = device.allocate_host(kCopied);
  const Transfer transfer{to.take(kCopied), from, kCopied};
  double seconds = 0;
  try {
    device.fill(from, 1, kCopied);
    seconds = seconds_of(device, *stream, [&] { stream->copy(transfer); });
  } catch (...) {
    device.release_host(from, kCopied);
    throw;
  }
  device.release_host(from, kCopied);
  return static_cast<double>(kCopied) / seconds;
}

}  // namespace plimsoll
