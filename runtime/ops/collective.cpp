#include "runtime/ops/collective.hpp"

namespace plimsoll {

std::vector<Sample<AllReduce::Attrs>> AllReduce::samples() { return {make_sample(Attrs{"data", 2}, {{kX, {37}}})}; }

void AllGather::infer(const Attrs& a, SlotSpecs& s) {
  TensorSpec y = s[kX];
  require(y.shape.rank() >= 1 && a.ranks >= 1, ErrorKind::Internal, "all_gather: x is {}, {} ranks", to_string(y),
          a.ranks);
  y.shape[0] *= a.ranks;
  s.set(kY, y);
}
std::vector<Sample<AllGather::Attrs>> AllGather::samples() { return {make_sample(Attrs{"tensor", 2}, {{kX, {3, 5}}})}; }

void ReduceScatter::infer(const Attrs& a, SlotSpecs& s) {
  TensorSpec y = s[kX];
  require(y.shape.rank() >= 1 && a.ranks >= 1 && y.shape[0] % a.ranks == 0, ErrorKind::Internal,
          "reduce_scatter: x is {}, {} ranks", to_string(y), a.ranks);
  y.shape[0] /= a.ranks;
  s.set(kY, y);
}
std::vector<Sample<ReduceScatter::Attrs>> ReduceScatter::samples() {
  return {make_sample(Attrs{"tensor", 2}, {{kX, {6, 5}}})};
}

}  // namespace plimsoll
