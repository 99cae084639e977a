#include "launch/kernel_timer.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "comm/probe.hpp"
#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/register.hpp"
#include "runtime/core/median.hpp"

namespace plimsoll {
namespace {

constexpr int kMostRuns = 15, kLeastRuns = 3;
constexpr double kEnough_s = 0.03;  // of runs of one node; the least number of runs may take longer
constexpr double kLong_s = 0.15;    // of a run that long, two: the shorter counts
constexpr std::int64_t kAlign = 64;
constexpr std::int64_t kPassBytes = std::int64_t{32} << 20;
constexpr std::int64_t kLinkBytes = std::int64_t{32} << 20;  // the largest message that is measured
constexpr std::int64_t kWork = 640;                          // rows and columns of the product before a collective

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// A rank of a group that nobody else is in: what the others would add is counted as a collective.
class Alone : public Reducer {
  void all_reduce(View, ReduceOp, std::byte*, const CallSite&) const override {}
};

// Memory of the device for as long as this lives.
class Buffer {
 public:
  Buffer(Device& device, std::int64_t bytes)
      : device_(device), bytes_(bytes), base_(static_cast<std::byte*>(device.allocate(bytes))) {}
  ~Buffer() { device_.release(base_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* take(std::int64_t bytes) {
    std::byte* at = base_ + used_;
    used_ += aligned(bytes);
    return at;
  }

 private:
  Device& device_;
  std::int64_t bytes_, used_ = 0;
  std::byte* base_;
};

// Numbers between 0.05 and 0.45: no kernel leaves the range of normal numbers for them, and a variance, a norm or a
// log-sum-exp may have such a value.
template <class T>
void fill_numbers(std::byte* data, std::int64_t count) {
  auto* to = reinterpret_cast<T*>(data);
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = T(static_cast<float>(0.05 + 0.4 * static_cast<double>((i * 2654435761LL) & 1023) / 1024));
}

void fill(std::byte* data, const TensorSpec& spec, std::int64_t ids) {
  switch (spec.dtype) {
    case DType::f32: return fill_numbers<float>(data, spec.elements());
    case DType::f64: return fill_numbers<double>(data, spec.elements());
    case DType::bf16: return fill_numbers<bf16>(data, spec.elements());
    case DType::f16: return fill_numbers<f16>(data, spec.elements());
    case DType::i32: {
      auto* to = reinterpret_cast<std::int32_t*>(data);
      for (std::int64_t i = 0; i < spec.elements(); ++i) to[i] = static_cast<std::int32_t>((i * 2654435761LL) % ids);
      return;
    }
    default: std::fill_n(data, spec.bytes(), std::byte{0});
  }
}

// Rows of the table that whole numbers choose from.
std::int64_t id_count(const OpInfo& op, const SlotSpecs& specs) {
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    const int slot = static_cast<int>(s);
    if (op.slots[s].role == Role::Param && specs.has(slot)) return std::max<std::int64_t>(1, specs[slot].shape[0]);
  }
  return 1;
}

std::int64_t node_bytes(const OpInfo& op, const Node& node, int threads) {
  std::int64_t bytes = aligned(op.workspace_bytes(node.attrs, node.specs, node.phase, threads));
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    const TensorSpec& spec = node.specs[static_cast<int>(s)];
    if (node.value[s] != kNoValue) bytes += aligned(spec.bytes());
    if (node.grad[s] != kNoValue) bytes += aligned(gradient_spec(op.slots[s], spec).bytes());
  }
  return bytes;
}

}  // namespace

KernelTimer::KernelTimer(const KernelTimerOptions& options)
    : options_(options), device_(make_cpu_device(options.threads)), kernels_(cpu_kernels()) {}

bool KernelTimer::allowed(std::int64_t bytes) const {
  return (options_.most_bytes == 0 || bytes <= options_.most_bytes) && spent_s_ < options_.most_seconds;
}

double KernelTimer::slowest(double seconds) const {
  return options_.group == nullptr ? seconds : options_.group->max(seconds);
}

double KernelTimer::median_of_runs(const Kernel kernel, const KernelArgs& args) {
  if (options_.group != nullptr) options_.group->barrier();
  const double begin = now_s();
  std::vector<double> times;
  kernel(args);  // touches what libraries allocate
  double last = now_s();
  const double first = last - begin;
  if (first > kLong_s) {
    kernel(args);
    return std::min(first, now_s() - last);
  }
  while (std::ssize(times) < kMostRuns && (std::ssize(times) < kLeastRuns || last - begin < kEnough_s)) {
    kernel(args);
    const double now = now_s();
    times.push_back(now - last);
    last = now;
  }
  return median(std::move(times));
}

std::optional<double> KernelTimer::node_seconds(const Graph&, const Node& node) {
  const OpInfo& op = op_info(node.op);
  const Kernel kernel = kernels_.find(node.op, node.phase, compute_dtype(op, node.specs));
  const std::int64_t bytes = node_bytes(op, node, options_.threads);
  if (kernel == nullptr || op.collective || !allowed(bytes)) return std::nullopt;
  const double begin = now_s();
  omp_set_num_threads(options_.threads);
  Buffer buffer(*device_, std::max(bytes, kAlign));
  std::array<View, kMaxSlots> value, grad;
  const std::int64_t ids = id_count(op, node.specs);
  KernelArgs args;
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    value[s].spec = node.specs[static_cast<int>(s)];
    grad[s].spec = gradient_spec(op.slots[s], value[s].spec);
    for (View* view :
         {node.value[s] != kNoValue ? &value[s] : nullptr, node.grad[s] != kNoValue ? &grad[s] : nullptr}) {
      if (view == nullptr) continue;
      std::byte* data = buffer.take(view->spec.bytes());
      fill(data, view->spec, ids);
      view->data = data;
    }
    if (node.accumulate[s] != Accumulate::Never) args.accumulate |= 1U << s;  // as in a micro-batch after the first
  }
  const std::int64_t workspace = op.workspace_bytes(node.attrs, node.specs, node.phase, options_.threads);
  if (workspace > 0) {
    args.workspace = buffer.take(workspace);
    std::fill_n(args.workspace, workspace, std::byte{0});
  }
  StepInputs inputs;
  StepOutputs outputs;
  const Alone alone;
  args.value = value.data();
  args.grad = grad.data();
  args.attributes = &node.attrs;
  args.threads = options_.threads;
  args.inputs = &inputs;
  args.outputs = &outputs;
  args.group = &alone;
  args.label = node.label.c_str();
  const double seconds = slowest(median_of_runs(kernel, args));
  spent_s_ += slowest(now_s() - begin);
  return seconds;
}

// Reads two arrays and writes one, as optimizers do.
std::optional<double> KernelTimer::memory_seconds_per_byte() {
  if (!allowed(3 * kPassBytes)) return std::nullopt;
  const double begin = now_s();
  Buffer buffer(*device_, 3 * kPassBytes);
  constexpr std::int64_t kCount = kPassBytes / std::int64_t{sizeof(float)};
  std::array<float*, 3> at{};
  for (float*& a : at) {
    std::byte* data = buffer.take(kPassBytes);
    fill_numbers<float>(data, kCount);
    a = reinterpret_cast<float*>(data);
  }
  if (options_.group != nullptr) options_.group->barrier();
  std::vector<double> times;
  for (int run = 0; run < kLeastRuns; ++run) {
    const double start = now_s();
#pragma omp parallel for schedule(static) num_threads(options_.threads)
    for (std::int64_t i = 0; i < kCount; ++i) at[2][i] = 0.9F * at[0][i] + 0.1F * at[1][i];
    times.push_back(now_s() - start);
  }
  const double seconds = slowest(median(std::move(times)));
  spent_s_ += slowest(now_s() - begin);
  return seconds / static_cast<double>(3 * kPassBytes);
}

std::optional<MeasuredLink> KernelTimer::link(LinkOperation operation) {
  if (options_.group == nullptr) return std::nullopt;
  ProbeOptions probing;
  probing.least_bytes = 4096;
  probing.repetitions = 5;
  probing.seconds_per_size = 0.25;
  probing.largest_bytes = kLinkBytes;
  // The probe has three buffers of the largest message, with room for alignment, the work here three matrices.
  constexpr std::int64_t kWorkBytes = 3 * kWork * kWork * std::int64_t{sizeof(float)};
  if (options_.most_bytes > 0) probing.largest_bytes = std::min(kLinkBytes, (options_.most_bytes - kWorkBytes) / 4);
  if (probing.largest_bytes < kLinkBytes / 64 || !allowed(0)) return std::nullopt;
  const double begin = now_s();
  const std::vector<float> a(kWork * kWork, 1.0F), b(kWork * kWork, 1.0F);
  std::vector<float> c(kWork * kWork);
  omp_set_num_threads(options_.threads);
  probing.work = [&] {
    gemm(false, true, kWork, kWork, kWork, a.data(), kWork, b.data(), kWork, 0.0F, c.data(), kWork);
  };
  const LinkTable table = probe(*options_.group, operation, probing);
  MeasuredLink link{"world", operation, options_.group->size(), 1, {}, {}};
  for (const LinkSample& sample : table.samples()) {
    link.bytes.push_back(sample.bytes);
    link.seconds.push_back(sample.seconds);
  }
  spent_s_ += slowest(now_s() - begin);
  return link;
}

}  // namespace plimsoll
