#include "comm/collective_kernels.hpp"

#include "comm/group.hpp"

namespace plimsoll {
namespace {

void all_reduce(const KernelArgs& a) {
  a.group->all_reduce(a.value[AllReduce::kX], ReduceOp::Sum, a.v<std::byte>(AllReduce::kScratch));
}

}  // namespace

void add_collective_kernels(KernelTable& table) {
  for (const DType dtype : {DType::f32, DType::f64}) table.add<AllReduce>(Phase::Reduce, dtype, all_reduce);
}

}  // namespace plimsoll
