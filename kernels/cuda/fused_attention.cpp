#include "kernels/cuda/fused_attention.hpp"

#ifdef PLIMSOLL_HAVE_CUDNN

#include <array>
#include <cmath>
#include <limits>
#include <map>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/fused_graphs.hpp"
#include "kernels/cuda_errors.hpp"
#include "runtime/core/log.hpp"

namespace plimsoll::cuda {
namespace {

struct DestroyHandle {
  void operator()(cudnnContext* handle) const { cudnnDestroy(handle); }
};

// Of one thread, for the device that it uses, as for matrix products.
struct Library {
  Library() {
    cudnnHandle_t raw = nullptr;
    check_cudnn(cudnnCreate(&raw), "cudnnCreate");
    handle.reset(raw);
  }
  std::unique_ptr<cudnnContext, DestroyHandle> handle;
  std::map<FusedShape, CudnnPlan> forward, backward;
};
thread_local bool refused = false;  // attention_refused()
Library& library() {
  thread_local Library one;
  return one;
}

// Of a slice: its samples, and its key heads with their query heads.
template <class T>
FusedShape fused_shape(const AttentionShape& s, const AttentionTensors<T>& t, const FusedSlice& slice) {
  return {dtype_of<T>(),   slice.samples,   slice.kv_heads * (s.heads / s.kv_heads),
          slice.kv_heads,  s.queries,       s.head_dim,
          t.queries.batch, t.queries.token, t.out.batch,
          t.out.token};
}

// What cuDNN's kernels take on every device that they run on; the library decides about the rest.
template <class T>
bool may_fuse(void* workspace, const FusedSlices& slices, const AttentionTensors<T>& t) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return slices.samples > 0 && workspace != nullptr && t.lse != nullptr && aligned(t.queries.data) &&
         aligned(t.keys.data) && aligned(t.values.data) && aligned(t.out.data);
}

// The plan for a shape, made once; its `plan` is null where there is none.
const CudnnPlan& plan_for(std::map<FusedShape, CudnnPlan>& plans, const FusedShape& shape, std::int64_t workspace,
                          CudnnPlan (*make)(const FusedShape&, cudnnHandle_t, std::int64_t, cudnnBackendDescriptor_t)) {
  const auto at = plans.find(shape);
  if (at != plans.end()) return at->second;
  CudnnPlan plan;
  if (cudnnGetVersion() >= std::size_t{kOldestCudnn}) plan = make(shape, library().handle.get(), workspace, nullptr);
  if (plan.plan == nullptr) {
    std::array<char, 512> reason{};
    cudnnGetLastErrorString(reason.data(), reason.size());
    log_warn(
        "kernels without tensor cores compute attention: cuDNN {} has none for {} x {} heads of {}, {} tokens, in {} "
        "bytes. {}",
        library_version_text(static_cast<std::int64_t>(cudnnGetVersion())), shape.batch, shape.heads, shape.head_dim,
        shape.length, workspace, reason.data());
    refused = true;
  }
  return plans.emplace(shape, std::move(plan)).first->second;
}

// Of a head of a sample.
template <class T>
void* address(const HeadTensor<T>& tensor, std::int64_t sample, std::int64_t head, std::int64_t head_dim) {
  return const_cast<std::remove_const_t<T>*>(tensor.data + sample * tensor.batch + head * head_dim);
}

}  // namespace

bool attention_refused() { return refused; }

template <class T>
bool try_attend(cudaStream_t stream, void* workspace, const FusedSlices& slices, const AttentionShape& s,
                const AttentionTensors<T>& t) {
  if (!may_fuse(workspace, slices, t)) return false;
  Library& cudnn = library();
  const FusedShape shape = fused_shape(s, t, {0, s.batch, 0, s.kv_heads});
  const CudnnPlan& plan = plan_for(cudnn.forward, shape, slices.bytes, plan_fused_forward);
  if (plan.plan == nullptr) return false;
  check_cudnn(cudnnSetStream(cudnn.handle.get(), stream), "cudnnSetStream");
  float scale = s.scale, masked = -std::numeric_limits<float>::infinity();
  const auto first = [&](const auto& tensor) { return address(tensor, 0, 0, s.head_dim); };
  const std::array<void*, 7> addresses{first(t.queries), first(t.keys), first(t.values), first(t.out), t.lse,
                                       &scale,           &masked};
  run(cudnn.handle.get(), plan, addresses, workspace);
  return true;
}

template <class T>
bool try_attend_gradient(cudaStream_t stream, void* workspace, const FusedSlices& slices, const AttentionShape& s,
                         const AttentionTensors<T>& t, const AttentionGradients<T>& g) {
  if (!may_fuse(workspace, slices, t) || g.accumulate) return false;
  Library& cudnn = library();
  const std::int64_t group = s.heads / s.kv_heads;
  const auto sums_bytes = [&](const FusedSlice& slice) {
    return row_sums_bytes(slice.samples, slice.kv_heads * group, s.queries);
  };
  // By the slice alone, so that a plan serves every node that has such a slice.
  const auto plan_of = [&](const FusedSlice& slice) -> const CudnnPlan& {
    const std::int64_t bytes =
        fused_backward_bytes(slice.samples, slice.kv_heads * group, slice.kv_heads, s.queries, s.head_dim);
    return plan_for(cudnn.backward, fused_shape(s, t, slice), bytes - sums_bytes(slice), plan_fused_backward);
  };
  bool taken = true;  // the last slice may have a plan of its own
  for_each_slice(slices, s.batch, s.kv_heads,
                 [&](const FusedSlice& slice) { taken = taken && plan_of(slice).plan != nullptr; });
  if (!taken) return false;
  check_cudnn(cudnnSetStream(cudnn.handle.get(), stream), "cudnnSetStream");
  float scale = s.scale, masked = -std::numeric_limits<float>::infinity(), one = 1;
  for_each_slice(slices, s.batch, s.kv_heads, [&](const FusedSlice& slice) {
    const std::int64_t head = slice.kv_head * group;
    const auto queries = [&](const auto& tensor) { return address(tensor, slice.sample, head, s.head_dim); };
    const auto keys = [&](const auto& tensor) { return address(tensor, slice.sample, slice.kv_head, s.head_dim); };
    const std::array<void*, 13> addresses{queries(t.queries),
                                          keys(t.keys),
                                          keys(t.values),
                                          queries(t.out),
                                          queries(g.out),
                                          t.lse + (slice.sample * s.heads + head) * s.queries,
                                          queries(g.queries),
                                          keys(g.keys),
                                          keys(g.values),
                                          workspace,
                                          &scale,
                                          &masked,
                                          &one};
    run(cudnn.handle.get(), plan_of(slice), addresses, static_cast<std::byte*>(workspace) + sums_bytes(slice));
  });
  return true;
}

}  // namespace plimsoll::cuda

#else

namespace plimsoll::cuda {

bool attention_refused() { return false; }

template <class T>
bool try_attend(cudaStream_t, void*, const FusedSlices&, const AttentionShape&, const AttentionTensors<T>&) {
  return false;
}
template <class T>
bool try_attend_gradient(cudaStream_t, void*, const FusedSlices&, const AttentionShape&, const AttentionTensors<T>&,
                         const AttentionGradients<T>&) {
  return false;
}

}  // namespace plimsoll::cuda

#endif

namespace plimsoll::cuda {

template bool try_attend(cudaStream_t, void*, const FusedSlices&, const AttentionShape&, const AttentionTensors<bf16>&);
template bool try_attend(cudaStream_t, void*, const FusedSlices&, const AttentionShape&, const AttentionTensors<f16>&);
template bool try_attend_gradient(cudaStream_t, void*, const FusedSlices&, const AttentionShape&,
                                  const AttentionTensors<bf16>&, const AttentionGradients<bf16>&);
template bool try_attend_gradient(cudaStream_t, void*, const FusedSlices&, const AttentionShape&,
                                  const AttentionTensors<f16>&, const AttentionGradients<f16>&);

}  // namespace plimsoll::cuda
