#include "kernels/cuda/fused_attention.hpp"

#ifdef PLIMSOLL_HAVE_CUDNN

#include <cmath>
#include <limits>
#include <map>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/fused_graphs.hpp"

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
Library& library() {
  thread_local Library one;
  return one;
}

template <class T>
FusedShape fused_shape(const AttentionShape& s, const AttentionTensors<T>& t) {
  return {dtype_of<T>(), s.batch,         s.heads,         s.kv_heads,  s.queries,
          s.head_dim,    t.queries.batch, t.queries.token, t.out.batch, t.out.token};
}

// What cuDNN's kernels take on every device that they run on; the library decides about the rest.
template <class T>
bool may_fuse(const AttentionShape& s, const AttentionTensors<T>& t) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return s.segments == nullptr && s.threshold == 0 && s.cached == 0 && takes_head_dim(s.head_dim) &&
         aligned(t.queries.data) && aligned(t.keys.data) && aligned(t.values.data) && aligned(t.out.data);
}

// The plan for a shape, made once; its `plan` is null where there is none.
const CudnnPlan& plan_for(std::map<FusedShape, CudnnPlan>& plans, const FusedShape& shape, std::int64_t workspace,
                          CudnnPlan (*make)(const FusedShape&, cudnnHandle_t, std::int64_t, cudnnBackendDescriptor_t)) {
  const auto at = plans.find(shape);
  if (at != plans.end()) return at->second;
  return plans.emplace(shape, make(shape, library().handle.get(), workspace, nullptr)).first->second;
}

template <class T>
void* address(const HeadTensor<T>& tensor) {
  return const_cast<std::remove_const_t<T>*>(tensor.data);
}

}  // namespace

template <class T>
bool try_attend(cudaStream_t stream, const FusedWorkspace& workspace, const AttentionShape& s,
                const AttentionTensors<T>& t) {
  if (!may_fuse(s, t) || t.lse == nullptr) return false;
  Library& cudnn = library();
  const CudnnPlan& plan = plan_for(cudnn.forward, fused_shape(s, t), workspace.bytes, plan_fused_forward);
  if (plan.plan == nullptr) return false;
  check_cudnn(cudnnSetStream(cudnn.handle.get(), stream), "cudnnSetStream");
  float scale = s.scale, masked = -std::numeric_limits<float>::infinity();
  const std::array<void*, 7> addresses{
      address(t.queries), address(t.keys), address(t.values), address(t.out), t.lse, &scale, &masked};
  run(cudnn.handle.get(), plan, addresses, workspace.data);
  return true;
}

template <class T>
bool try_attend_gradient(cudaStream_t stream, const FusedWorkspace& workspace, const AttentionShape& s,
                         const AttentionTensors<T>& t, const AttentionGradients<T>& g) {
  const std::int64_t sums = row_sums_bytes(s.batch, s.heads, s.queries);
  if (!may_fuse(s, t) || g.accumulate || workspace.bytes < sums) return false;
  Library& cudnn = library();
  const CudnnPlan& plan = plan_for(cudnn.backward, fused_shape(s, t), workspace.bytes - sums, plan_fused_backward);
  if (plan.plan == nullptr) return false;
  check_cudnn(cudnnSetStream(cudnn.handle.get(), stream), "cudnnSetStream");
  float scale = s.scale, masked = -std::numeric_limits<float>::infinity(), one = 1;
  const std::array<void*, 13> addresses{address(t.queries),
                                        address(t.keys),
                                        address(t.values),
                                        address(t.out),
                                        address(g.out),
                                        t.lse,
                                        address(g.queries),
                                        address(g.keys),
                                        address(g.values),
                                        workspace.data,
                                        &scale,
                                        &masked,
                                        &one};
  run(cudnn.handle.get(), plan, addresses, static_cast<std::byte*>(workspace.data) + sums);
  return true;
}

}  // namespace plimsoll::cuda

#else

namespace plimsoll::cuda {

template <class T>
bool try_attend(cudaStream_t, const FusedWorkspace&, const AttentionShape&, const AttentionTensors<T>&) {
  return false;
}
template <class T>
bool try_attend_gradient(cudaStream_t, const FusedWorkspace&, const AttentionShape&, const AttentionTensors<T>&,
                         const AttentionGradients<T>&) {
  return false;
}

}  // namespace plimsoll::cuda

#endif

namespace plimsoll::cuda {

template bool try_attend(cudaStream_t, const FusedWorkspace&, const AttentionShape&, const AttentionTensors<bf16>&);
template bool try_attend(cudaStream_t, const FusedWorkspace&, const AttentionShape&, const AttentionTensors<f16>&);
template bool try_attend_gradient(cudaStream_t, const FusedWorkspace&, const AttentionShape&,
                                  const AttentionTensors<bf16>&, const AttentionGradients<bf16>&);
template bool try_attend_gradient(cudaStream_t, const FusedWorkspace&, const AttentionShape&,
                                  const AttentionTensors<f16>&, const AttentionGradients<f16>&);

}  // namespace plimsoll::cuda
