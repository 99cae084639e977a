#include "kernels/cuda/product.hpp"

#include <cublasLt.h>
#include <library_types.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include "kernels/cuda/check.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll::cuda {
namespace {

template <auto destroy>
struct Destroyer {
  template <class T>
  void operator()(T* handle) const {
    destroy(handle);
  }
};
template <class T, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroyer<destroy>>;
using Handle = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t data_type(DType type) {
  switch (type) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    case DType::f8e4m3: return CUDA_R_8F_E4M3;
    case DType::f8e5m2: return CUDA_R_8F_E5M2;
    default: fail(ErrorKind::Internal, "no product of {} on a GPU", dtype_name(type));
  }
}

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
}

Layout make_layout(DType type, std::int64_t rows, std::int64_t columns, std::int64_t ld) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublas(cublasLtMatrixLayoutCreate(&layout, data_type(type), static_cast<std::uint64_t>(rows),
                                          static_cast<std::uint64_t>(columns), ld),
               "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

// With D = Cᵀ a bias along the rows of C is one along the columns of D, and A and B change places.
cublasLtEpilogue_t epilogue_of(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::None: return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::Bias: return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::Gelu: return CUBLASLT_EPILOGUE_GELU;
    case Epilogue::GeluBias: return CUBLASLT_EPILOGUE_GELU_BIAS;
    case Epilogue::SumA: return CUBLASLT_EPILOGUE_BGRADB;
    case Epilogue::SumB: return CUBLASLT_EPILOGUE_BGRADA;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// The power of two, at most 256, that an address is a multiple of.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256U;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

// What the choice of an algorithm depends on.
using Key = std::array<std::int64_t, 16>;
Key key_of(const Product& p, const ProductWorkspace& workspace) {
  const std::int64_t flags = (p.trans_a ? 1 : 0) | (p.trans_b ? 2 : 0) | (p.accumulate ? 4 : 0) | (p.tf32 ? 8 : 0);
  return {flags,
          static_cast<std::int64_t>(p.epilogue),
          static_cast<std::int64_t>(p.in),
          static_cast<std::int64_t>(p.in_b.value_or(p.in)),
          static_cast<std::int64_t>(p.out),
          p.m,
          p.n,
          p.k,
          p.lda,
          p.ldb,
          p.ldc,
          alignment_of(p.a),
          alignment_of(p.b),
          alignment_of(p.c),
          alignment_of(p.vector),
          workspace.bytes};
}

struct Plan {
  bool exists = false;
  Operation operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
};

Preference make_preference(const Product& p, const ProductWorkspace& workspace) {
  cublasLtMatmulPreference_t raw = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&raw), "cublasLtMatmulPreferenceCreate");
  Preference preference(raw);
  const auto set_preference = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
  };
  set_preference(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace.bytes));
  // Where the library splits the inner dimension, parts are added up in float, in order, and rounded once.
  set_preference(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                 static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
  set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
  set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
  set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c));
  return preference;
}

// A and B change places, as above.
void set_scales(const Operation& operation, const Product& p) {
  if (p.scale_a == nullptr) return;
  set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(p.scale_b));
  set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(p.scale_a));
}

Plan make_plan(cublasLtHandle_t handle, const Product& p, const ProductWorkspace& workspace) {
  Plan plan;
  const bool rounds = p.tf32 && p.in == DType::f32;
  cublasLtMatmulDesc_t raw = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&raw, rounds ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
  plan.operation.reset(raw);
  const ColumnMajorProduct d = column_major(p);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, d.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, d.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.epilogue != Epilogue::None) {
    const bool sums = p.epilogue == Epilogue::SumA || p.epilogue == Epilogue::SumB;
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p.epilogue));
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.vector));
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
        static_cast<std::int32_t>(data_type(sums ? DType::f32 : p.out)));
  }
  set_scales(plan.operation, p);
  plan.a = make_layout(p.in_b.value_or(p.in), d.rows_a, d.columns_a, d.lda);
  plan.b = make_layout(p.in, d.rows_b, d.columns_b, d.ldb);
  plan.c = make_layout(p.out, d.rows, d.columns, d.ld);
  const Preference preference = make_preference(p, workspace);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, plan.operation.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                     plan.c.get(), preference.get(), 1, &best, &found);
  plan.exists = status == CUBLAS_STATUS_SUCCESS && found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = best.algo;
  return plan;
}

// Of one thread: ranks that share a process have their own, for the device that the thread uses.
struct Library {
  Library() {
    cublasLtHandle_t raw = nullptr;
    check_cublas(cublasLtCreate(&raw), "cublasLtCreate");
    handle.reset(raw);
  }
  Handle handle;
  std::map<Key, Plan> plans;
};

}  // namespace

bool try_multiply(cudaStream_t stream, const ProductWorkspace& workspace, const Product& p) {
  if (p.m == 0 || p.n == 0) return true;
  thread_local Library library;
  const Key key = key_of(p, workspace);
  auto at = library.plans.find(key);
  if (at == library.plans.end()) at = library.plans.emplace(key, make_plan(library.handle.get(), p, workspace)).first;
  Plan& plan = at->second;
  if (!plan.exists) return false;
  if (p.epilogue != Epilogue::None)
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.vector));
  set_scales(plan.operation, p);
  const float alpha = 1, beta = p.accumulate ? 1.0F : 0.0F;
  const cublasStatus_t status =
      cublasLtMatmul(library.handle.get(), plan.operation.get(), &alpha, p.b, plan.a.get(), p.a, plan.b.get(), &beta,
                     p.c, plan.c.get(), p.c, plan.c.get(), &plan.algorithm, workspace.data,
                     static_cast<std::size_t>(workspace.bytes), stream);
  // What the heuristic offers may still be refused, before anything is queued.
  const bool refused = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
  if (refused && p.epilogue != Epilogue::None) return plan.exists = false;
  check_cublas(status, "cublasLtMatmul");
  return true;
}

void multiply(cudaStream_t stream, const ProductWorkspace& workspace, const Product& p) {
  require(try_multiply(stream, workspace, p), ErrorKind::Device,
          "cuBLASLt has no product of {} into {} for m {}, n {}, k {} (leading dimensions {}, {}, {})",
          dtype_name(p.in), dtype_name(p.out), p.m, p.n, p.k, p.lda, p.ldb, p.ldc);
}

}  // namespace plimsoll::cuda
