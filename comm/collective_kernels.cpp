#include "comm/collective_kernels.hpp"

#include <cstring>

#include "comm/group.hpp"

namespace plimsoll {
namespace {

const Group& group_of(const KernelArgs& a) { return static_cast<const Group&>(*a.group); }

void all_reduce(const KernelArgs& a) {
  group_of(a).all_reduce(a.value[AllReduce::kX], ReduceOp::Sum, a.v<std::byte>(AllReduce::kScratch), a.label);
}

// Where a phase reads and writes: values in forward, gradients from y to x in backward.
template <class Op>
struct Ends {
  View from, to;
  Ends(const KernelArgs& a, Phase phase)
      : from(phase == Phase::Forward ? a.value[Op::kX] : a.grad[Op::kY]),
        to(phase == Phase::Forward ? a.value[Op::kY] : a.grad[Op::kX]) {}
  // False when there is nothing to do on any rank: nobody wants the result, or it is zero.
  bool wanted() const {
    if (to && !from) std::memset(to.data, 0, static_cast<std::size_t>(to.spec.bytes()));
    return to && from;
  }
};

void copy(const View& from, const View& to) {
  if (from.data != to.data) std::memcpy(to.data, from.data, static_cast<std::size_t>(to.spec.bytes()));
}

template <class Op, Phase phase>
void copy_over(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (ends.wanted()) copy(ends.from, ends.to);
}

template <class Op, Phase phase>
void sum_over(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (!ends.wanted()) return;
  copy(ends.from, ends.to);
  group_of(a).all_reduce(ends.to, ReduceOp::Sum, a.workspace, a.label);
}

// Calls move(there, here, bytes) for every block of `view` [outer, ranks, block] and its place in `by_rank`
// [ranks, outer, block].
template <class Move>
void for_each_block(const RankBlocks& b, int ranks, const View& view, std::byte* by_rank, const Move& move) {
  std::byte* whole = view.as<std::byte>();
  for (std::int64_t o = 0; o < b.outer; ++o) {
    for (std::int64_t r = 0; r < ranks; ++r) {
      move(whole + (o * ranks + r) * b.block_bytes, by_rank + (r * b.outer + o) * b.block_bytes,
           static_cast<std::size_t>(b.block_bytes));
    }
  }
}

template <class Op, Phase phase>
void gather(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (!ends.wanted()) return;
  const DimAttrs& attrs = a.attrs<Op>();
  if (reorder_bytes(attrs, ends.from.spec) == 0) return group_of(a).all_gather(ends.from, ends.to, a.label, attrs.cuts);
  group_of(a).all_gather(ends.from, {a.workspace, ends.to.spec}, a.label);
  for_each_block(rank_blocks(ends.from.spec, attrs.dim), attrs.ranks, ends.to, a.workspace,
                 [](std::byte* whole, const std::byte* by_rank, std::size_t n) { std::memcpy(whole, by_rank, n); });
}

template <class Op, Phase phase>
void scatter(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (!ends.wanted()) return;
  const DimAttrs& attrs = a.attrs<Op>();
  const std::int64_t reorder = reorder_bytes(attrs, ends.to.spec);
  View in = ends.from;
  if (reorder > 0) {
    in.data = a.workspace;
    for_each_block(rank_blocks(ends.to.spec, attrs.dim), attrs.ranks, ends.from, a.workspace,
                   [](const std::byte* whole, std::byte* by_rank, std::size_t n) { std::memcpy(by_rank, whole, n); });
  }
  group_of(a).reduce_scatter(in, ends.to, ReduceOp::Sum, a.workspace + reorder, a.label, attrs.cuts);
}

void gather_units(const KernelArgs& a) {
  group_of(a).all_gather(a.value[GatherUnits::kX], a.value[GatherUnits::kY], a.attrs<GatherUnits>().parts, a.label);
}

}  // namespace

void add_collective_kernels(KernelTable& table) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    table.add<AllReduce>(Phase::Reduce, dtype, all_reduce);
    table.add<GatherUnits>(Phase::Forward, dtype, gather_units);
    table.add<CopyTo>(Phase::Forward, dtype, copy_over<CopyTo, Phase::Forward>);
    table.add<CopyTo>(Phase::InputGrad, dtype, sum_over<CopyTo, Phase::InputGrad>);
    table.add<ReduceFrom>(Phase::Forward, dtype, sum_over<ReduceFrom, Phase::Forward>);
    table.add<ReduceFrom>(Phase::InputGrad, dtype, copy_over<ReduceFrom, Phase::InputGrad>);
    table.add<AllGather>(Phase::Forward, dtype, gather<AllGather, Phase::Forward>);
    table.add<AllGather>(Phase::InputGrad, dtype, scatter<AllGather, Phase::InputGrad>);
    table.add<ReduceScatter>(Phase::Forward, dtype, scatter<ReduceScatter, Phase::Forward>);
    table.add<ReduceScatter>(Phase::InputGrad, dtype, gather<ReduceScatter, Phase::InputGrad>);
  }
}

}  // namespace plimsoll
