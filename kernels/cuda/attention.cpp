#include "kernels/cuda/attention.hpp"

#include "kernels/cuda/fused_attention.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/register.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/ops/attention_device.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

// Up to this many, a query has a block of its own: tiles would leave most of the GPU idle.
constexpr std::int64_t kFewQueries = 16;

AttentionShape shape_of(const HeadLayout& layout, double scale, const Shape& qkv) {
  static_assert(kMostHeadDim == kMostDeviceHeadDim);  // what configurations are refused by
  require(layout.head_dim <= kMostHeadDim, ErrorKind::Device, "attention: heads of {} on a GPU; at most {}",
          layout.head_dim, kMostHeadDim);
  AttentionShape shape;
  shape.batch = qkv[0];
  shape.queries = qkv[1];
  shape.heads = layout.heads;
  shape.kv_heads = layout.kv_heads;
  shape.head_dim = layout.head_dim;
  shape.scale = static_cast<float>(scale);
  return shape;
}

AttentionShape shape_of(const KernelArgs& args) {
  const auto& a = args.attrs<Attention>();
  AttentionShape shape = shape_of(a.layout, a.scale, args.value[Attention::kQkv].spec.shape);
  shape.segments = args.v<const std::int32_t>(Attention::kSegments);
  shape.threshold = dropout_threshold(a.dropout);
  shape.kept = static_cast<float>(1 / (1 - a.dropout));
  shape.site = a.site;
  shape.first_head = a.first_head;
  shape.all_heads = a.all_heads > 0 ? a.all_heads : a.layout.heads;
  return shape;
}

// Queries, keys and values of packed rows, or their gradients.
template <class T>
struct PackedHeads {
  HeadTensor<T> queries, keys, values;
  PackedHeads(T* data, const HeadLayout& layout, std::int64_t length) {
    const std::int64_t token = layout.packed_width();
    queries = {data, length * token, token};
    keys = {data + layout.output_width(), length * token, token};
    values = {keys.data + std::int64_t{layout.kv_heads} * layout.head_dim, length * token, token};
  }
};

template <class T>
HeadTensor<T> output_heads(T* data, const HeadLayout& layout, std::int64_t length) {
  return {data, length * layout.output_width(), layout.output_width()};
}

template <class T>
AttentionTensors<T> tensors_of(const KernelArgs& args) {
  const HeadLayout& layout = args.attrs<Attention>().layout;
  const std::int64_t length = args.value[Attention::kQkv].spec.shape[1];
  const PackedHeads<const T> packed(args.v<const T>(Attention::kQkv), layout, length);
  return {packed.queries, packed.keys, packed.values, output_heads(args.v<T>(Attention::kOut), layout, length),
          args.v<float>(Attention::kLse)};
}

FusedSlices slices_of(const KernelArgs& args, Phase phase) {
  SlotSpecs specs;
  for (const int slot : {int{Attention::kQkv}, int{Attention::kSegments}}) {
    if (args.value[slot]) specs.set(slot, args.value[slot].spec);
  }
  return fused_slices(args.attrs<Attention>(), specs, phase);
}

template <class T>
void attention_forward(const KernelArgs& args) {
  if constexpr (!std::is_same_v<T, float>) {
    const FusedSlices slices = slices_of(args, Phase::Forward);
    if (try_attend(stream_of(args), args.workspace, slices, shape_of(args), tensors_of<T>(args))) return;
  }
  attend(stream_of(args), shape_of(args), tensors_of<T>(args), args.inputs);
}

template <class T>
void attention_backward(const KernelArgs& args) {
  if (!args.grad[Attention::kQkv] || without_gradient<Attention>(args, Attention::kOut)) return;
  const HeadLayout& layout = args.attrs<Attention>().layout;
  const std::int64_t length = args.value[Attention::kQkv].spec.shape[1];
  const PackedHeads<T> packed(args.g<T>(Attention::kQkv), layout, length);
  const AttentionGradients<T> gradients{output_heads(args.g<const T>(Attention::kOut), layout, length), packed.queries,
                                        packed.keys, packed.values, args.accumulates(Attention::kQkv)};
  if constexpr (!std::is_same_v<T, float>) {
    const FusedSlices slices = slices_of(args, Phase::InputGrad);
    if (try_attend_gradient(stream_of(args), args.workspace, slices, shape_of(args), tensors_of<T>(args), gradients))
      return;
  }
  attend_gradient(stream_of(args), shape_of(args), tensors_of<T>(args), gradients, args.inputs);
}

// The position is known on the device only, so rows beyond the cache are neither written nor read, without an error.
template <class T>
void cached_attention(const KernelArgs& args) {
  using Op = CachedAttention;
  const auto& a = args.attrs<Op>();
  const Shape& qkv = args.value[Op::kQkv].spec.shape;
  const std::int64_t positions = args.value[Op::kKeys].spec.shape[1];
  const std::int64_t width = std::int64_t{a.layout.kv_heads} * a.layout.head_dim;
  const PackedHeads<const T> packed(args.v<const T>(Op::kQkv), a.layout, qkv[1]);
  T *keys = args.v<T>(Op::kKeys), *values = args.v<T>(Op::kValues);
  const cudaStream_t stream = stream_of(args);
  append_rows(stream, packed.keys, keys, qkv[0], qkv[1], positions, width, args.inputs);
  append_rows(stream, packed.values, values, qkv[0], qkv[1], positions, width, args.inputs);
  AttentionShape shape = shape_of(a.layout, a.scale, qkv);
  shape.cached = positions;
  const AttentionTensors<T> tensors{packed.queries,
                                    {keys, positions * width, width},
                                    {values, positions * width, width},
                                    output_heads(args.v<T>(Op::kOut), a.layout, qkv[1]),
                                    nullptr};
  if (shape.queries <= kFewQueries)
    attend_cached(stream, shape, tensors, args.inputs);
  else
    attend(stream, shape, tensors, args.inputs);
}

}  // namespace

void add_cuda_attention_kernels(KernelTable& table) {
  for_each_type([&]<class T>(T) {
    table.add<Attention>(Phase::Forward, dtype_of<T>(), attention_forward<T>);
    table.add<Attention>(Phase::InputGrad, dtype_of<T>(), attention_backward<T>);
    table.add<CachedAttention>(Phase::Forward, dtype_of<T>(), cached_attention<T>);
  });
}

}  // namespace plimsoll
