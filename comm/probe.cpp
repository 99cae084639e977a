#include "comm/probe.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

#include "runtime/core/error.hpp"
#include "runtime/core/median.hpp"

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

  // So many of one operation, one after another; returns when they are done.
  void run(std::int64_t bytes, int times) const {
    if (stream_ == nullptr) return repeat(bytes, times);
    struct Call {
      const Probe* probe;
      std::int64_t bytes;
      int times;
    } call{this, bytes, times};
    stream_->launch({[](void* c) {
                       const auto* asked = static_cast<const Call*>(c);
                       asked->probe->repeat(asked->bytes, asked->times);
                     },
                     &call});
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

}  // namespace

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
  }
  return LinkTable(std::move(samples));
}

}  // namespace plimsoll
