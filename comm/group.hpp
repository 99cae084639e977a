#pragma once
// The ranks along a mesh axis: a small value over a transport. Every call is collective over the group. On host memory
// it blocks its thread; in a step, the executor runs them as tasks of communication streams, which is what makes
// them asynchronous. On the memory of a device that has a queue of its own (CallSite) it queues its work and returns.

#include <memory>
#include <span>
#include <string>

#include "comm/transport.hpp"
#include "comm/watchdog.hpp"
#include "runtime/ops/collective.hpp"

namespace plimsoll {

inline std::byte* element_at(const View& v, std::int64_t element) {
  return v.as<std::byte>() + element * dtype_bytes(v.spec.dtype);
}

// Of several tensors gathered at once (Group::all_gather): visit(what this rank has of a tensor in `in`, the tensor in
// `out`, its cuts) for each.
template <class Visit>
void for_each_gathered(View in, View out, std::span<const JoinedPart> parts, int rank, int ranks, Visit&& visit) {
  std::int64_t mine = 0, all = 0;  // elements of the parts before
  for (const JoinedPart& part : parts) {
    const std::int64_t count = range_of_rank(part.elements, rank, ranks, part.cuts).count;
    visit(View{element_at(in, mine), {{count}, in.spec.dtype}},
          View{element_at(out, all), {{part.elements}, out.spec.dtype}}, part.cuts);
    mine += count;
    all += part.elements;
  }
}

// Of several tensors summed at once (Group::reduce_scatter): visit(the tensor in `in`, where this rank has its part of
// the sum: in `out` or, where that has no memory, in the tensor; its cuts) for each.
template <class Visit>
void for_each_scattered(View in, View out, std::span<const JoinedPart> parts, int rank, int ranks, Visit&& visit) {
  std::int64_t mine = 0, all = 0;  // elements of the parts before
  for (const JoinedPart& part : parts) {
    const ElementRange range = range_of_rank(part.elements, rank, ranks, part.cuts);
    visit(View{element_at(in, all), {{part.elements}, in.spec.dtype}},
          View{out ? element_at(out, mine) : element_at(in, all + range.first), {{range.count}, in.spec.dtype}},
          part.cuts);
    mine += range.count;
    all += part.elements;
  }
}

class Group : public Reducer {
 public:
  Group() = default;
  // `watch`: who is told of calls in flight; may be null.
  Group(std::string axis, std::shared_ptr<Transport> transport, std::shared_ptr<WatchedGroup> watch = nullptr)
      : axis_(std::move(axis)), transport_(std::move(transport)), watch_(std::move(watch)) {}
  const std::string& axis() const { return axis_; }
  int rank() const { return transport_->rank(); }
  int size() const { return transport_->size(); }
  std::int64_t bytes_sent() const { return transport_->bytes_sent(); }

  // x = reduction over ranks, element by element in rank order ((r0 + r1) + r2) + …: the bits depend on nothing but the
  // values (design §9.8). All types but u8; sums of bf16 and f16 are made in f32 and rounded once; the maximum of NaN
  // and anything is NaN. `scratch`: reduce_scratch_bytes(size()), or exactly for the share of x. Pairwise exchange:
  // each rank owns n/size elements, receives them from all, sums, and sends the sums to all: 2(n−1)/n of the bytes, as
  // a ring. `label`: what the watchdog calls it, here and below.
  void all_reduce(View x, ReduceOp op, std::byte* scratch, const CallSite& at = {}) const override;
  // The same of ranges of x alone, which rise, the messages of all of them under way together. `scratch`: for
  // size() ranks.
  void all_reduce(View x, ReduceOp op, std::byte* scratch, std::span<const ElementRange> ranges,
                  const CallSite& at = {}) const;
  // out = this rank's part of the reduction of `in`: 1/size of it, or what `cuts` says. `scratch`: for the bytes of
  // out.
  void reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, const CallSite& at = {},
                      const RankCuts& cuts = {}) const;
  // The same of several tensors at once, the messages of all of them under way together: `in` has the first of them
  // whole, then the second, …; `out` what this rank has of each, one after another. Where `out` is empty these are put
  // into `in`, each at its place in its tensor. `scratch`: for the bytes of all of them.
  void reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, std::span<const JoinedPart> parts,
                      const CallSite& at = {}) const;
  // out = the `in` of all ranks in rank order: out / size each, or what `cuts` says of the elements of out. `in` may
  // lie at its place in `out`.
  void all_gather(View in, View out, const CallSite& at = {}, const RankCuts& cuts = {}) const;
  // The same of several tensors at once, the messages of all of them under way together: `in` has what this rank has of
  // each, one after another, `out` the first of them whole, then the second, ….
  void all_gather(View in, View out, std::span<const JoinedPart> parts, const CallSite& at = {}) const;
  void broadcast(View x, int root) const;
  // One thread may send while another one receives. `awaited`, where there is one: false as long as this rank does
  // other things meanwhile; the watchdog does not count that time.
  void send(View x, int peer, const CallSite& at = {}, const std::atomic<bool>* awaited = nullptr) const;
  void receive(View x, int peer, const CallSite& at = {}, const std::atomic<bool>* awaited = nullptr) const;
  void barrier() const;

  // Host values, for control: small and rare.
  double sum(double value) const;
  double max(double value) const;
  void gather_values(const void* mine, std::int64_t bytes, void* all) const;

 private:
  // Who is told of a call: nobody where the transport does it.
  WatchedGroup* watcher(const WholeCollectives* whole) const;
  void check_parts(const char* what, const View& whole, const View& part, const RankCuts& cuts) const;
  void check_joined(const char* what, const View& whole, const View* mine, std::span<const JoinedPart> parts) const;

  std::string axis_;
  std::shared_ptr<Transport> transport_;
  std::shared_ptr<WatchedGroup> watch_;
};

}  // namespace plimsoll
