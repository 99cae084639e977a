#include "kernels/cuda/rope.hpp"

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

// The frequencies go with the launch: sines are computed once per thread and used for several heads, so the workspace
// of the declaration is not needed.
template <class T>
void rotate_view(const KernelArgs& args, const View& from, const View& to, float sign, bool accumulate) {
  const auto& attrs = args.attrs<Rope>();
  const HeadLayout& layout = attrs.layout;
  RopeRange range;
  range.rows = from.spec.rows();
  range.length = from.spec.shape[1];
  range.rotated = layout.heads + layout.kv_heads;
  range.heads = layout.heads + 2 * layout.kv_heads;
  range.half = layout.head_dim / 2;
  range.sign = sign;
  require(range.half <= kMostRopeFrequencies, ErrorKind::Device, "rope: heads of {} on a GPU; at most {}",
          layout.head_dim, 2 * kMostRopeFrequencies);
  for (int i = 0; i < range.half; ++i) {
    range.frequency[i] = static_cast<float>(rope_inverse_frequency(attrs.rule, layout.head_dim, i));
  }
  rotate(stream_of(args), range, args.inputs, from.as<const T>(), to.as<T>(), accumulate);
}

template <class T>
void rope_forward(const KernelArgs& args) {
  rotate_view<T>(args, args.value[Rope::kX], args.value[Rope::kY], 1.0F, false);
}

template <class T>
void rope_backward(const KernelArgs& args) {
  if (!args.grad[Rope::kX] || without_gradient<Rope>(args, Rope::kY)) return;
  rotate_view<T>(args, args.grad[Rope::kY], args.grad[Rope::kX], -1.0F, args.accumulates(Rope::kX));
}

}  // namespace

void add_cuda_rope_kernels(KernelTable& table) {
  for_each_type([&]<class T>(T) {
    table.add<Rope>(Phase::Forward, dtype_of<T>(), rope_forward<T>);
    table.add<Rope>(Phase::InputGrad, dtype_of<T>(), rope_backward<T>);
  });
}

}  // namespace plimsoll
