#include "comm/collective_kernels.hpp"

#include "comm/group.hpp"

// Nothing here touches a tensor but through the stream and the group, so these are the kernels of every device.
namespace plimsoll {
namespace {

const Group& group_of(const KernelArgs& a) { return static_cast<const Group&>(*a.group); }

void all_reduce(const KernelArgs& a) {
  const auto& attrs = a.attrs<AllReduce>();
  const ReduceOp op = attrs.largest ? ReduceOp::Max : ReduceOp::Sum;
  const View x = a.value[AllReduce::kX];
  auto* scratch = a.v<std::byte>(AllReduce::kScratch);
  if (attrs.ranges.empty()) return group_of(a).all_reduce(x, op, scratch, a.site());
  group_of(a).all_reduce(x, op, scratch, attrs.ranges, a.site());
}

// Where a phase reads and writes: values in forward, gradients from y to x in backward.
template <class Op>
struct Ends {
  View from, to;
  Ends(const KernelArgs& a, Phase phase)
      : from(phase == Phase::Forward ? a.value[Op::kX] : a.grad[Op::kY]),
        to(phase == Phase::Forward ? a.value[Op::kY] : a.grad[Op::kX]) {}
  // False when there is nothing to do on any rank: nobody wants the result, or it is zero.
  bool wanted(Stream& stream) const {
    if (to && !from) stream.fill(to.data, 0, to.spec.bytes());
    return to && from;
  }
};

void copy(Stream& stream, const View& from, const View& to) {
  if (from.data != to.data) stream.copy_bytes(to.data, from.data, to.spec.bytes());
}

template <class Op, Phase phase>
void copy_over(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (ends.wanted(*a.stream)) copy(*a.stream, ends.from, ends.to);
}

template <class Op, Phase phase>
void sum_over(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (!ends.wanted(*a.stream)) return;
  copy(*a.stream, ends.from, ends.to);
  group_of(a).all_reduce(ends.to, ReduceOp::Sum, a.workspace, a.site());
}

// Between a tensor [outer, ranks, block] and its blocks by rank [ranks, outer, block].
enum class Order { ToRanks, FromRanks };
void reorder_blocks(Stream& stream, Order order, const RankBlocks& b, int ranks, const View& whole,
                    std::byte* by_rank) {
  const std::int64_t bytes = b.block_bytes, row = ranks * bytes;
  for (int r = 0; r < ranks; ++r) {
    std::byte *there = whole.as<std::byte>() + r * bytes, *here = by_rank + r * b.outer * bytes;
    if (order == Order::ToRanks) {
      stream.copy_blocks(here, bytes, there, row, bytes, b.outer);
    } else {
      stream.copy_blocks(there, row, here, bytes, bytes, b.outer);
    }
  }
}

template <class Op, Phase phase>
void gather(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (!ends.wanted(*a.stream)) return;
  const DimAttrs& attrs = a.attrs<Op>();
  if (reorder_bytes(attrs, ends.from.spec) == 0)
    return group_of(a).all_gather(ends.from, ends.to, a.site(), attrs.cuts);
  group_of(a).all_gather(ends.from, {a.workspace, ends.to.spec}, a.site());
  reorder_blocks(*a.stream, Order::FromRanks, rank_blocks(ends.from.spec, attrs.dim), attrs.ranks, ends.to,
                 a.workspace);
}

template <class Op, Phase phase>
void scatter(const KernelArgs& a) {
  const Ends<Op> ends(a, phase);
  if (!ends.wanted(*a.stream)) return;
  const DimAttrs& attrs = a.attrs<Op>();
  const std::int64_t reorder = reorder_bytes(attrs, ends.to.spec);
  View in = ends.from;
  if (reorder > 0) {
    in.data = a.workspace;
    reorder_blocks(*a.stream, Order::ToRanks, rank_blocks(ends.to.spec, attrs.dim), attrs.ranks, ends.from,
                   a.workspace);
  }
  group_of(a).reduce_scatter(in, ends.to, ReduceOp::Sum, a.workspace + reorder, a.site(), attrs.cuts);
}

void gather_units(const KernelArgs& a) {
  group_of(a).all_gather(a.value[GatherUnits::kX], a.value[GatherUnits::kY], a.attrs<GatherUnits>().parts, a.site());
}

void reduce_units(const KernelArgs& a) {
  const ReduceUnits::Attrs& attrs = a.attrs<ReduceUnits>();
  group_of(a).reduce_scatter(a.value[ReduceUnits::kX], a.value[ReduceUnits::kY], ReduceOp::Sum, a.workspace,
                             attrs.parts, a.site());
}

}  // namespace

void add_collective_kernels(KernelTable& table) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    table.add<AllReduce>(Phase::Reduce, dtype, all_reduce);
    table.add<GatherUnits>(Phase::Forward, dtype, gather_units);
    table.add<ReduceUnits>(Phase::Reduce, dtype, reduce_units);
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
