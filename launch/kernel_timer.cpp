#include "launch/kernel_timer.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "comm/probe.hpp"
#include "runtime/core/median.hpp"

namespace plimsoll {
namespace {

constexpr int kMostRuns = 15, kLeastRuns = 3;
constexpr double kEnough_s = 0.03;  // of runs of one node; the least number of runs may take longer
constexpr double kLong_s = 0.15;    // of a run that long, two: the shorter counts
// Where the host only launches, kernels follow each other as in a step: so many, unless one takes this long.
constexpr int kLaunchesInARow = 8;
constexpr double kLongOnDevice_s = 1e-3;
constexpr std::int64_t kPassBytes = std::int64_t{32} << 20;
constexpr std::int64_t kLinkBytes = std::int64_t{32} << 20;  // the largest message that is measured
constexpr std::int64_t kWork = 640;                          // rows and columns of the product before a collective

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

KernelTimer::KernelTimer(const KernelTimerOptions& options)
    : options_(options),
      own_(options.backend == nullptr ? std::make_unique<Backend>(make_cpu_backend(options.threads)) : nullptr),
      backend_(own_ ? own_.get() : options.backend),
      compute_(backend_->device->make_stream(StreamKind::Compute)),
      timer_(backend_->device->make_timer()) {
  if (options.messages != nullptr) communication_ = backend_->device->make_stream(StreamKind::Communication);
}

bool KernelTimer::allowed(std::int64_t bytes) const {
  return (options_.most_bytes == 0 || bytes <= options_.most_bytes) && spent_s_ < options_.most_seconds;
}

double KernelTimer::slowest(double seconds) const {
  return options_.group == nullptr ? seconds : options_.group->max(seconds);
}

double KernelTimer::timed(NodeRunner& node, int runs) {
  timer_->start(*compute_);
  for (int i = 0; i < runs; ++i) node.launch();
  timer_->stop(*compute_);
  return timer_->seconds() / runs;
}

double KernelTimer::median_of_runs(NodeRunner& node) {
  if (options_.group != nullptr) options_.group->barrier();
  const double first = timed(node, 1);  // touches what libraries allocate
  if (first > kLong_s) return std::min(first, timed(node, 1));
  double spent = first;
  int in_a_row = 1;
  if (compute_->only_launches()) {
    const double again = timed(node, 1);
    spent += again;
    if (again < kLongOnDevice_s) in_a_row = kLaunchesInARow;
  }
  std::vector<double> times;
  while (std::ssize(times) < kMostRuns && (std::ssize(times) < kLeastRuns || spent < kEnough_s)) {
    times.push_back(timed(node, in_a_row));
    spent += times.back() * in_a_row;
  }
  return median(std::move(times));
}

std::optional<double> KernelTimer::node_seconds(const Graph&, const Node& node) {
  const Kernel kernel = NodeRunner::kernel_of(backend_->kernels, node);
  // Buffers lie on the device: what is copied there would not cross the link to the host, whose line is described.
  const bool crosses = op_info(node.op).copies && backend_->device->outside_bytes();
  if (kernel == nullptr || op_info(node.op).collective || crosses ||
      !allowed(NodeRunner::bytes(node, backend_->threads)))
    return std::nullopt;
  const double begin = now_s();
  omp_set_num_threads(options_.threads);
  NodeRunner runner(*backend_->device, *compute_, kernel, node, backend_->threads);
  const double seconds = slowest(median_of_runs(runner));
  spent_s_ += slowest(now_s() - begin);
  return seconds;
}

// Reads two arrays and writes one, as optimizers do.
std::optional<double> KernelTimer::memory_seconds_per_byte() {
  SlotSpecs specs;
  for (const int slot : {int{Add::kA}, int{Add::kB}})
    specs.set(slot, {{kPassBytes / dtype_bytes(DType::f32)}, DType::f32});
  const Node pass = lone_node<Add>({}, specs);
  const auto seconds = node_seconds({}, pass);
  if (!seconds) return std::nullopt;
  return *seconds / static_cast<double>(3 * kPassBytes);
}

std::optional<MeasuredLink> KernelTimer::link(LinkOperation operation) {
  if (options_.group == nullptr) return std::nullopt;
  const Group& group = options_.messages != nullptr ? *options_.messages : *options_.group;
  ProbeOptions probing;
  probing.least_bytes = 4096;
  probing.repetitions = 5;
  probing.seconds_per_size = 0.25;
  probing.largest_bytes = kLinkBytes;
  // The probe has three buffers of the largest message, with room for alignment, each kind of work three matrices.
  constexpr std::int64_t kWorkBytes =
      3 * (kWork * kWork + LoneProduct::kShort * LoneProduct::kShort) * std::int64_t{sizeof(float)};
  if (options_.most_bytes > 0) probing.largest_bytes = std::min(kLinkBytes, (options_.most_bytes - kWorkBytes) / 4);
  if (probing.largest_bytes < kLinkBytes / 64 || !allowed(0)) return std::nullopt;
  const double begin = now_s();
  omp_set_num_threads(options_.threads);
  LoneProduct work(*backend_, *compute_, kWork);
  probing.work = [&] { work.run(); };
  if (options_.messages != nullptr) probing.on = {backend_->device.get(), communication_.get()};
  const LinkTable table = probe(group, operation, probing);
  MeasuredLink link{"world", operation, group.size(), 1, {}, {}, 0};
  for (const LinkSample& sample : table.samples()) {
    link.bytes.push_back(sample.bytes);
    link.seconds.push_back(sample.seconds);
  }
  LoneProduct beside(*backend_, *compute_, LoneProduct::kShort);
  link.slows = probe_slowdown(
      group, operation, probing.largest_bytes, [&] { beside.run(); }, probing.on);
  spent_s_ += slowest(now_s() - begin);
  return link;
}

}  // namespace plimsoll
