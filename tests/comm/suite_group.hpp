#pragma once
// A group as the collectives' suite calls it: over host memory as it is, or, with a device, through tensors there, by
// tasks of a stream. A stream's task sees device memory, and nobody else needs to.

#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "comm/group.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

// As kernels call a transport: by a task of the stream, which is waited for.
inline void run_on(Stream& stream, const std::function<void(const CallSite&)>& call) {
  struct Launched {
    const std::function<void(const CallSite&)>* call;
    Stream* stream;
  } launched{&call, &stream};
  stream.launch({[](void* l) {
                   const auto& mine = *static_cast<Launched*>(l);
                   (*mine.call)({"suite", mine.stream});
                 },
                 &launched});
  stream.synchronize();
}

class SuiteGroup {
 public:
  SuiteGroup(const Group& group) : group_(group) {}  // NOLINT(google-explicit-constructor): a group is one
  SuiteGroup(const Group& group, Device& device)
      : group_(group), device_(&device), stream_(device.make_stream(StreamKind::Communication)) {}

  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }
  std::int64_t bytes_sent() const { return group_.bytes_sent(); }

  // Host values.
  double sum(double value) const { return group_.sum(value); }
  double max(double value) const { return group_.max(value); }
  void gather_values(const void* mine, std::int64_t bytes, void* all) const { group_.gather_values(mine, bytes, all); }
  void barrier() const { group_.barrier(); }
  void broadcast(View x, int root) const { group_.broadcast(x, root); }

  void all_reduce(View x, ReduceOp op, std::byte* scratch) const {
    const Moved there(*this, x);
    run([&](const CallSite& at) { group_.all_reduce(there.view, op, scratch, at); });
  }
  void reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, const RankCuts& cuts = {}) const {
    const Moved from(*this, in), to(*this, out);
    run([&](const CallSite& at) { group_.reduce_scatter(from.view, to.view, op, scratch, at, cuts); });
  }
  void all_reduce(View x, ReduceOp op, std::byte* scratch, std::span<const ElementRange> ranges) const {
    const Moved there(*this, x);
    run([&](const CallSite& at) { group_.all_reduce(there.view, op, scratch, ranges, at); });
  }
  // Without memory in `out`, in place.
  void reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, std::span<const JoinedPart> parts) const {
    const Moved from(*this, in);
    if (!out) return run([&](const CallSite& at) { group_.reduce_scatter(from.view, {}, op, scratch, parts, at); });
    const Moved to(*this, out);
    run([&](const CallSite& at) { group_.reduce_scatter(from.view, to.view, op, scratch, parts, at); });
  }
  void all_gather(View in, View out, const RankCuts& cuts = {}) const {
    gather(in, out, [&](View from, View to, const CallSite& at) { group_.all_gather(from, to, at, cuts); });
  }
  void all_gather(View in, View out, std::span<const JoinedPart> parts) const {
    gather(in, out, [&](View from, View to, const CallSite& at) { group_.all_gather(from, to, parts, at); });
  }
  void send(View x, int peer) const {
    const Moved there(*this, x);
    run([&](const CallSite& at) { group_.send(there.view, peer, at); });
  }
  void receive(View x, int peer) const {
    const Moved there(*this, x);
    run([&](const CallSite& at) { group_.receive(there.view, peer, at); });
  }

 private:
  // A tensor's twin on the device, which its contents come back from. Bytes behind it must stay as they are.
  class Moved {
   public:
    Moved(const SuiteGroup& owner, View host) : view(host), device_(owner.device_), host_(host) {
      if (device_ == nullptr) return;
      view.data = device_->allocate(host.spec.bytes() + kBehind);
      device_->copy_to_device(view.data, host.data, host.spec.bytes());
      device_->fill(behind(), kByte, kBehind);
    }
    ~Moved() {
      if (device_ == nullptr) return;
      std::array<std::uint8_t, kBehind> found{};
      device_->copy_to_host(found.data(), behind(), kBehind);
      device_->copy_to_host(host_.data, view.data, host_.spec.bytes());
      // The element behind a tensor of the suite is its guard, which compare() looks at.
      for (const std::uint8_t byte : found) {
        if (byte != kByte) std::memset(host_.as<std::byte>() + host_.spec.bytes(), 0, 1);
      }
      device_->release(view.data, host_.spec.bytes() + kBehind);
    }
    Moved(const Moved&) = delete;
    Moved& operator=(const Moved&) = delete;
    View view;

   private:
    static constexpr std::int64_t kBehind = 16;
    static constexpr std::uint8_t kByte = 0xA5;
    std::byte* behind() const { return view.as<std::byte>() + host_.spec.bytes(); }
    Device* device_;
    View host_;
  };

  // `in` stays inside `out` where it lies there.
  template <class Call>
  void gather(View in, View out, const Call& call) const {
    const Moved to(*this, out);
    const std::ptrdiff_t place = in.as<std::byte>() - out.as<std::byte>();
    if (place >= 0 && place + in.spec.bytes() <= out.spec.bytes()) {
      run([&](const CallSite& at) { call({to.view.as<std::byte>() + place, in.spec}, to.view, at); });
    } else {
      const Moved from(*this, in);
      run([&](const CallSite& at) { call(from.view, to.view, at); });
    }
  }

  void run(const std::function<void(const CallSite&)>& call) const {
    if (stream_ == nullptr) return call({});
    run_on(*stream_, call);
  }

  const Group& group_;
  Device* device_ = nullptr;
  std::unique_ptr<Stream> stream_;
};

}  // namespace plimsoll
