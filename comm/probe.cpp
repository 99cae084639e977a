#include "comm/probe.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>

#include "runtime/core/error.hpp"
#include "runtime/core/median.hpp"
#include "runtime/device/cpu_stream.hpp"

namespace plimsoll {
namespace {

// Zeros, of the host or of a device.
class Zeros {
 public:
  Zeros(Device* device, std::int64_t bytes) : device_(device), bytes_(bytes) {
    if (device_ == nullptr) {
      host_ = std::make_unique<std::byte[]>(static_cast<std::size_t>(bytes));
      return;
    }
    on_device_ = static_cast<std::byte*>(device_->allocate(bytes));
    device_->fill(on_device_, 0, bytes);
  }
  ~Zeros() {
    if (device_ != nullptr) device_->release(on_device_, bytes_);
  }
  Zeros(const Zeros&) = delete;
  Zeros& operator=(const Zeros&) = delete;
  std::byte* get() const { return device_ != nullptr ? on_device_ : host_.get(); }

 private:
  Device* device_;
  std::int64_t bytes_;
  std::unique_ptr<std::byte[]> host_;
  std::byte* on_device_ = nullptr;
};

// Buffers of one operation, touched once, so that no size pays for pages.
class Probe {
 public:
  Probe(const Group& group, LinkOperation operation, std::int64_t largest_bytes, const ProbePlace& on)
      : group_(group),
        operation_(operation),
        stream_(on.stream),
        ranks_(group.size()),
        scratch_(on.device, reduce_scratch_bytes(ranks_)),
        whole_(on.device, whole_bytes(largest_bytes)),
        part_(on.device, whole_bytes(largest_bytes) / ranks_) {}

  // The tensor of at most `bytes` that divides into parts.
  std::int64_t whole_bytes(std::int64_t bytes) const {
    const std::int64_t unit = std::int64_t{ranks_} * static_cast<std::int64_t>(sizeof(float));
    return std::max<std::int64_t>(bytes / unit, 1) * unit;
  }

  // So many of one operation, one after another, as a task; outlives it.
  struct Call {
    const Probe* probe;
    std::int64_t bytes;
    int times;
    Task task() {
      return {[](void* c) {
                const auto* asked = static_cast<const Call*>(c);
                asked->probe->repeat(asked->bytes, asked->times);
              },
              this};
    }
  };
  // The same; returns when they are done.
  void run(std::int64_t bytes, int times) const {
    if (stream_ == nullptr) return repeat(bytes, times);
    Call call{this, bytes, times};
    stream_->launch(call.task());
    stream_->synchronize();
  }

  // Of one operation: as long as the slowest rank takes, and what `work` takes here.
  struct Times {
    double all, work;
  };
  // Collectives follow each other as in a step: what a barrier or an idle link costs the next message (TCP acknowledges
  // late after short messages) is not theirs. Messages one way go one by one, since nothing says when they arrived.
  Times seconds(std::int64_t bytes, const std::function<void()>& work) const {
    using Clock = std::chrono::steady_clock;
    const int in_a_row = operation_ == LinkOperation::SendReceive || work ? 1 : kCollectivesInARow;
    group_.barrier();
    const auto start = Clock::now();
    if (work) work();
    const auto worked = Clock::now();
    run(bytes, in_a_row);
    const double all = std::chrono::duration<double>(Clock::now() - start).count();
    return {group_.max(all) / in_a_row, work ? std::chrono::duration<double>(worked - start).count() : 0};
  }

 private:
  void repeat(std::int64_t bytes, int times) const {
    for (int i = 0; i < times; ++i) ask(bytes);
  }
  void ask(std::int64_t bytes) const {
    const View whole = floats(whole_.get(), bytes), part = floats(part_.get(), bytes / ranks_);
    const CallSite at("probe", stream_);
    switch (operation_) {
      case LinkOperation::SendReceive: {
        const int half = ranks_ / 2, rank = group_.rank();
        if (rank < half) group_.send(whole, rank + half, at);
        if (rank >= half && rank < 2 * half) group_.receive(whole, rank - half, at);
        return;
      }
      case LinkOperation::ReduceScatter: return group_.reduce_scatter(whole, part, ReduceOp::Sum, scratch_.get(), at);
      case LinkOperation::AllGather: return group_.all_gather(part, whole, at);
      case LinkOperation::AllReduce: return group_.all_reduce(whole, ReduceOp::Sum, scratch_.get(), at);
    }
  }
  static View floats(std::byte* data, std::int64_t bytes) {
    return {data, {{bytes / static_cast<std::int64_t>(sizeof(float))}, DType::f32}};
  }

  const Group& group_;
  LinkOperation operation_;
  Stream* stream_;
  int ranks_;
  Zeros scratch_, whole_, part_;
};

// Units of work a second until `ends`.
template <class Ends>
double work_rate(const std::function<void()>& work, const Ends& ends) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::int64_t units = 0;
  do {
    work();
    ++units;
  } while (!ends());
  return static_cast<double>(units) / std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

double probe_slowdown(const Group& group, LinkOperation operation, std::int64_t bytes,
                      const std::function<void()>& work, const ProbePlace& on) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRepetitions = 3;
  constexpr double kLeastSeconds = 0.1;
  const Probe probe(group, operation, bytes, on);
  bytes = probe.whole_bytes(bytes);
  probe.seconds(bytes, nullptr);  // warms up
  const auto times = static_cast<int>(std::ceil(kLeastSeconds / std::max(probe.seconds(bytes, nullptr).all, 1e-6)));
  const std::unique_ptr<Stream> own = on.stream == nullptr ? make_worker_stream() : nullptr;  // as in a step
  Stream& stream = own ? *own : *on.stream;
  const std::unique_ptr<Event> done = own ? make_cpu_event() : on.device->make_event();
  std::vector<double> lost;
  for (int r = 0; r < kRepetitions; ++r) {
    group.barrier();
    const auto until = Clock::now() + std::chrono::duration<double>(kLeastSeconds);
    const double alone = work_rate(work, [&] { return Clock::now() >= until; });
    group.barrier();
    Probe::Call call{&probe, bytes, times};
    stream.launch(call.task());
    stream.record(*done);
    const double beside = work_rate(work, [&] { return done->ready(); });
    done->synchronize();  // throws what went wrong there
    lost.push_back(group.max(1 - beside / alone));
  }
  return std::clamp(median(std::move(lost)), 0.0, 0.95);
}

LinkTable probe(const Group& group, LinkOperation operation, const ProbeOptions& options) {
  require(group.size() >= 2, ErrorKind::Internal, "probe of axis {}: {} rank", group.axis(), group.size());
  require(options.least_bytes >= 1 && options.least_bytes <= options.largest_bytes && options.repetitions >= 1,
          ErrorKind::Internal, "probe: {} to {} bytes, {} repetitions", options.least_bytes, options.largest_bytes,
          options.repetitions);
  const Probe probe(group, operation, options.largest_bytes, options.on);
  std::vector<LinkSample> samples;
  for (std::int64_t size = options.least_bytes; size <= options.largest_bytes; size *= 2) {
    const std::int64_t bytes = probe.whole_bytes(size);
    if (!samples.empty() && bytes <= samples.back().bytes) continue;
    // The times are those of all ranks, so all ranks stop after the same repetition.
    double spent = probe.seconds(bytes, options.work).all;  // warms up
    std::vector<double> all, work;
    while (all.empty() || (std::ssize(all) < options.repetitions && spent < options.seconds_per_size)) {
      const Probe::Times times = probe.seconds(bytes, options.work);
      all.push_back(times.all);
      work.push_back(times.work);
      spent += times.all;
    }
    const double work_s = options.work ? group.max(median(std::move(work))) : 0;
    samples.push_back({bytes, std::max(median(std::move(all)) - work_s, 1e-9)});
    if (samples.back().seconds > options.longest_s) break;
  }
  return LinkTable(std::move(samples));
}

}  // namespace plimsoll
