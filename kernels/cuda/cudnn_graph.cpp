#ifdef PLIMSOLL_HAVE_CUDNN

#include "kernels/cuda/cudnn_graph.hpp"

#include <algorithm>

#include "kernels/cuda/check.hpp"

namespace plimsoll::cuda {
namespace {

constexpr std::int64_t kMostChoices = 16;

Dims contiguous(const Dims& d) { return {d[1] * d[2] * d[3], d[2] * d[3], d[3], 1}; }

Descriptor create(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t raw = nullptr;
  return Descriptor(cudnnBackendCreateDescriptor(type, &raw) == CUDNN_STATUS_SUCCESS ? raw : nullptr);
}

bool is_reproducible(const Descriptor& choice) {
  const Descriptor engine = create(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.get();
  std::int64_t count = 0;
  if (cudnnBackendGetAttribute(choice.get(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                               &raw) != CUDNN_STATUS_SUCCESS)
    return false;
  std::array<cudnnBackendNumericalNote_t, CUDNN_NUMERICAL_NOTE_TYPE_COUNT> notes{};
  std::int64_t noted = 0;
  if (cudnnBackendGetAttribute(raw, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                               static_cast<std::int64_t>(notes.size()), &noted, notes.data()) != CUDNN_STATUS_SUCCESS)
    return false;
  const auto end = notes.begin() + std::clamp<std::int64_t>(noted, 0, notes.size());
  return std::find(notes.begin(), end, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) == end;
}

}  // namespace

Descriptor CudnnGraph::make(cudnnBackendDescriptorType_t type) {
  Descriptor d = create(type);
  taken_ = taken_ && d != nullptr;
  return d;
}

template <class T>
void CudnnGraph::set(const Descriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     std::span<const T> values) {
  taken_ = taken_ && cudnnBackendSetAttribute(d.get(), name, type, static_cast<std::int64_t>(values.size()),
                                              values.data()) == CUDNN_STATUS_SUCCESS;
}

void CudnnGraph::finalize(const Descriptor& d) {
  taken_ = taken_ && cudnnBackendFinalize(d.get()) == CUDNN_STATUS_SUCCESS;
}

CudnnGraph::Tensor CudnnGraph::make_tensor(cudnnDataType_t type, const Dims& dims, const Dims& strides, bool is_virtual,
                                           bool by_value) {
  Descriptor d = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const std::int64_t uid = next_uid_++, alignment = 16;
  set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, std::span<const std::int64_t>(dims));
  set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, std::span<const std::int64_t>(strides));
  set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, uid);
  set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, alignment);
  set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, is_virtual);
  set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value);
  finalize(d);
  if (!is_virtual) uids_.push_back(uid);
  return kept_.emplace_back(std::move(d)).get();
}

CudnnGraph::Tensor CudnnGraph::input(cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return make_tensor(type, dims, strides, false, false);
}
CudnnGraph::Tensor CudnnGraph::scalar() {
  return make_tensor(CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
}
CudnnGraph::Tensor CudnnGraph::between(cudnnDataType_t type, const Dims& dims) {
  return between(type, dims, contiguous(dims));
}
CudnnGraph::Tensor CudnnGraph::between(cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return make_tensor(type, dims, strides, true, false);
}

// The operation keeps the rule's descriptor by reference: both live as long as the graph.
void CudnnGraph::add_operation(Descriptor operation, Descriptor rule) {
  finalize(operation);
  operations_.push_back(std::move(operation));
  if (rule != nullptr) kept_.push_back(std::move(rule));
}

void CudnnGraph::pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y, cudnnDataType_t precision, Tensor t,
                           std::int64_t axis) {
  Descriptor rule = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(rule, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  set(rule, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, precision);
  if (axis >= 0) set(rule, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
  finalize(rule);
  Descriptor operation = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, rule.get());
  set(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, x);
  if (b != nullptr) set(operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, b);
  if (t != nullptr) set(operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, t);
  set(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, y);
  add_operation(std::move(operation), std::move(rule));
}

void CudnnGraph::matmul(Tensor a, Tensor b, Tensor c) {
  Descriptor rule = make(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  set(rule, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  finalize(rule);
  Descriptor operation = make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  set(operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, a);
  set(operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, b);
  set(operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, c);
  set(operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, rule.get());
  add_operation(std::move(operation), std::move(rule));
}

void CudnnGraph::reduce(cudnnReduceTensorOp_t mode, Tensor x, Tensor y) {
  Descriptor rule = make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  set(rule, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, mode);
  set(rule, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  finalize(rule);
  Descriptor operation = make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  set(operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, x);
  set(operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, y);
  set(operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, rule.get());
  add_operation(std::move(operation), std::move(rule));
}

void CudnnGraph::reshape(Tensor x, Tensor y) {
  Descriptor operation = make(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  set(operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, x);
  set(operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, y);
  add_operation(std::move(operation), nullptr);
}

CudnnPlan CudnnGraph::make_plan(cudnnHandle_t handle, const Descriptor& choice, cudnnBackendDescriptor_t device) const {
  CudnnPlan result;
  Descriptor plan = create(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  cudnnBackendDescriptor_t config = choice.get();
  std::int64_t count = 0;
  bool made =
      plan != nullptr && cudnnBackendSetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) == CUDNN_STATUS_SUCCESS;
  if (device != nullptr)
    made = made && cudnnBackendSetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                            CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device) == CUDNN_STATUS_SUCCESS;
  else
    made = made && cudnnBackendSetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                            &handle) == CUDNN_STATUS_SUCCESS;
  made = made && cudnnBackendFinalize(plan.get()) == CUDNN_STATUS_SUCCESS &&
         cudnnBackendGetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                                  &result.workspace_bytes) == CUDNN_STATUS_SUCCESS;
  if (made) result.plan = std::move(plan);
  return result;
}

CudnnPlan CudnnGraph::finish(cudnnHandle_t handle, std::int64_t workspace_bytes, cudnnBackendDescriptor_t device) {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const Descriptor& d : operations_) operations.push_back(d.get());
  Descriptor graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
      std::span<const cudnnBackendDescriptor_t>(operations));
  if (device == nullptr) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle);
  finalize(graph);
  Descriptor heuristic = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, graph.get());
  set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
  if (device != nullptr) set(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, device);
  finalize(heuristic);
  if (!taken_) return {};
  std::vector<Descriptor> choices;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < kMostChoices; ++i) {
    choices.push_back(create(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    raw.push_back(choices.back().get());
  }
  std::int64_t count = 0;
  if (cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                               kMostChoices, &count, raw.data()) != CUDNN_STATUS_SUCCESS)
    return {};
  for (std::int64_t i = 0; i < std::min(count, kMostChoices); ++i) {
    const Descriptor& choice = choices[static_cast<std::size_t>(i)];
    if (!is_reproducible(choice)) continue;
    CudnnPlan plan = make_plan(handle, choice, device);
    if (plan.plan == nullptr || plan.workspace_bytes > workspace_bytes) continue;
    plan.uids = uids_;
    return plan;
  }
  return {};
}

void run(cudnnHandle_t handle, const CudnnPlan& plan, std::span<void* const> addresses, void* workspace) {
  const Descriptor pack = create(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  const auto count = static_cast<std::int64_t>(plan.uids.size());
  check_cudnn(pack == nullptr ? CUDNN_STATUS_ALLOC_FAILED : CUDNN_STATUS_SUCCESS, "cudnnBackendCreateDescriptor");
  check_cudnn(cudnnBackendSetAttribute(pack.get(), CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count,
                                       plan.uids.data()),
              "cudnnBackendSetAttribute");
  check_cudnn(cudnnBackendSetAttribute(pack.get(), CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count,
                                       addresses.data()),
              "cudnnBackendSetAttribute");
  check_cudnn(
      cudnnBackendSetAttribute(pack.get(), CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace),
      "cudnnBackendSetAttribute");
  check_cudnn(cudnnBackendFinalize(pack.get()), "cudnnBackendFinalize");
  check_cudnn(cudnnBackendExecute(handle, plan.plan.get(), pack.get()), "cudnnBackendExecute");
}

}  // namespace plimsoll::cuda

#endif
