#pragma once
// The ranks along a mesh axis: a small value over a transport. Every call is collective over the group and blocks its
// thread; in a step, the executor runs them as tasks of the communication stream, which is what makes them
// asynchronous.

#include <memory>
#include <span>
#include <string>

#include "comm/transport.hpp"
#include "comm/watchdog.hpp"
#include "runtime/ops/collective.hpp"

namespace plimsoll {

class Group : public Reducer {
 public:
  Group() = default;
  // `native`: use the transport's own sum where it has one (comm.collectives: mpi); its order of summation is its own.
  // `watch`: who is told of calls in flight; may be null.
  Group(std::string axis, std::shared_ptr<Transport> transport, bool native = false,
        std::shared_ptr<WatchedGroup> watch = nullptr)
      : axis_(std::move(axis)), transport_(std::move(transport)), watch_(std::move(watch)), native_(native) {}
  const std::string& axis() const { return axis_; }
  int rank() const { return transport_->rank(); }
  int size() const { return transport_->size(); }
  std::int64_t bytes_sent() const { return transport_->bytes_sent(); }

  // x = reduction over ranks, element by element in rank order ((r0 + r1) + r2) + …: the bits depend on nothing but the
  // values (design §9.8). All types but u8; sums of bf16 and f16 are made in f32 and rounded once; the maximum of NaN
  // and anything is NaN. `scratch`: reduce_scratch_bytes(size()), or exactly for the share of x. Pairwise exchange:
  // each rank owns n/size elements, receives them from all, sums, and sends the sums to all: 2(n−1)/n of the bytes, as
  // a ring. `label`: what the watchdog calls it, here and below.
  void all_reduce(View x, ReduceOp op, std::byte* scratch, const char* label = "") const override;
  // out = this rank's part of the reduction of `in`: 1/size of it, or what `cuts` says. `scratch`: for the bytes of
  // out.
  void reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, const char* label = "",
                      const RankCuts& cuts = {}) const;
  // out = the `in` of all ranks in rank order: out / size each, or what `cuts` says of the elements of out. `in` may
  // lie at its place in `out`.
  void all_gather(View in, View out, const char* label = "", const RankCuts& cuts = {}) const;
  // The same of several tensors at once, the messages of all of them under way together: `in` has what this rank has of
  // each, one after another, `out` the first of them whole, then the second, ….
  void all_gather(View in, View out, std::span<const GatheredPart> parts, const char* label = "") const;
  void broadcast(View x, int root) const;
  // One thread may send while another one receives. `awaited`, where there is one: false as long as this rank does
  // other things meanwhile; the watchdog does not count that time.
  void send(View x, int peer, const char* label = "", const std::atomic<bool>* awaited = nullptr) const;
  void receive(View x, int peer, const char* label = "", const std::atomic<bool>* awaited = nullptr) const;
  void barrier() const;

  // Host values, for control: small and rare.
  double sum(double value) const;
  double max(double value) const;
  void gather_values(const void* mine, std::int64_t bytes, void* all) const;

 private:
  void check_parts(const char* what, const View& whole, const View& part, const RankCuts& cuts) const;

  std::string axis_;
  std::shared_ptr<Transport> transport_;
  std::shared_ptr<WatchedGroup> watch_;
  bool native_ = false;
};

}  // namespace plimsoll
