#pragma once
// Operation graphs of cuDNN's backend interface (9.x): tensors and operations in, an execution plan out. What the
// library does not take is an answer, not an error.

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace plimsoll::cuda {

struct DestroyDescriptor {
  void operator()(void* descriptor) const { cudnnBackendDestroyDescriptor(descriptor); }
};
using Descriptor = std::unique_ptr<void, DestroyDescriptor>;

using Dims = std::array<std::int64_t, 4>;

// A plan with the uids of its tensors in the order in which run() takes their addresses. Tensors that are passed by
// value have theirs in host memory.
struct CudnnPlan {
  Descriptor plan;
  std::vector<std::int64_t> uids;
  std::int64_t workspace_bytes = 0;
};

// Of the calling thread's device.
class CudnnGraph {
 public:
  using Tensor = cudnnBackendDescriptor_t;

  // Tensors with an address, in the order of run(); aligned to 16 bytes.
  Tensor input(cudnnDataType_t type, const Dims& dims, const Dims& strides);
  Tensor scalar();  // a float, by value
  // Between operations; without strides contiguous.
  Tensor between(cudnnDataType_t type, const Dims& dims);
  Tensor between(cudnnDataType_t type, const Dims& dims, const Dims& strides);

  // y = mode(x, b), or t ? x : b. Computes in `precision`. axis: of the index that CUDNN_POINTWISE_GEN_INDEX makes.
  void pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y, cudnnDataType_t precision = CUDNN_DATA_FLOAT,
                 Tensor t = nullptr, std::int64_t axis = -1);
  void matmul(Tensor a, Tensor b, Tensor c);
  void reduce(cudnnReduceTensorOp_t mode, Tensor x, Tensor y);
  void reshape(Tensor x, Tensor y);

  // The first of the library's choices whose result is the same on every run and that needs at most `workspace_bytes`.
  // `device`: a description of the device to plan for, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR; null: that of `handle`.
  // plan is null where there is none.
  CudnnPlan finish(cudnnHandle_t handle, std::int64_t workspace_bytes, cudnnBackendDescriptor_t device = nullptr);

 private:
  Tensor make_tensor(cudnnDataType_t type, const Dims& dims, const Dims& strides, bool is_virtual, bool by_value);
  Descriptor make(cudnnBackendDescriptorType_t type);
  template <class T>
  void set(const Descriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
           std::span<const T> values);
  template <class T>
  void set(const Descriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
    set(d, name, type, std::span<const T>(&value, 1));
  }
  void finalize(const Descriptor& d);
  void add_operation(Descriptor operation, Descriptor rule);
  CudnnPlan make_plan(cudnnHandle_t handle, const Descriptor& choice, cudnnBackendDescriptor_t device) const;

  bool taken_ = true;  // nothing was refused so far
  std::vector<Descriptor> kept_, operations_;
  std::vector<std::int64_t> uids_;
  std::int64_t next_uid_ = 1;
};

// `addresses` in the order of plan.uids. `workspace`: plan.workspace_bytes.
void run(cudnnHandle_t handle, const CudnnPlan& plan, std::span<void* const> addresses, void* workspace);

}  // namespace plimsoll::cuda
