// cuBLASLt as its documentation describes it: column-major, with sums in float. What it asks of its callers (sizes of
// attributes, leading dimensions, alignments that were promised, one choice for one problem) is checked, and its
// workspace is filled with ones. EMULATED_CUBLASLT=plain has no epilogues, so that callers show what they do without;
// with =unasked a product that has one ends the process.

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

#include "tests/emulation/device.hpp"
#include "tests/emulation/grid.hpp"

namespace {

using emulated::fail;

// EMULATED_CUBLASLT, which a test may change.
std::string_view wanted() {
  const char* given = std::getenv("EMULATED_CUBLASLT");
  return given == nullptr ? "" : given;
}

constexpr std::size_t kLibraryBytes = std::size_t{96} << 20;  // of the device, from the first product on
constexpr std::size_t kMostWorkspace = std::size_t{4} << 20;  // that a choice asks for

using Matrix = Eigen::MatrixXf;  // column-major

// A descriptor's attributes by number, as they were given.
struct Attributes {
  std::map<int, std::uint64_t> value;
  template <class T>
  T get(int attribute, T otherwise) const {
    const auto at = value.find(attribute);
    if (at == value.end()) return otherwise;
    T x;
    std::memcpy(&x, &at->second, sizeof x);
    return x;
  }
  // `bytes`: how long values of this attribute are; 0: not known here.
  cublasStatus_t set(int attribute, const void* from, std::size_t given, std::size_t bytes) {
    if (bytes == 0) fail("cuBLASLt: attribute %d is not emulated", attribute);
    if (from == nullptr || given != bytes) return CUBLAS_STATUS_INVALID_VALUE;
    std::uint64_t x = 0;
    std::memcpy(&x, from, bytes);
    value[attribute] = x;
    return CUBLAS_STATUS_SUCCESS;
  }
};

struct Description : Attributes {
  cublasComputeType_t compute{};
  cudaDataType_t scale{};
  bool transposed(cublasLtMatmulDescAttributes_t which) const {
    return get<std::int32_t>(which, CUBLAS_OP_N) == CUBLAS_OP_T;
  }
  auto epilogue() const {
    return static_cast<cublasLtEpilogue_t>(
        get<std::uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT));
  }
  template <class T>
  T* pointer(cublasLtMatmulDescAttributes_t which) const {
    return get<T*>(which, nullptr);
  }
};

struct MatrixLayout {
  cudaDataType type{};
  std::int64_t rows = 0, columns = 0, ld = 0;
  bool operator==(const MatrixLayout&) const = default;
};

std::size_t bytes_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_32F: return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF: return 2;
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2: return 1;
    default: fail("cuBLASLt: type %d is not emulated", type);
  }
}
bool is_fp8(cudaDataType type) { return bytes_of(type) == 1; }

// A choice: what problem it is for, and what it wants.
struct Choice {
  std::uint64_t problem;
  std::uint64_t workspace;
  std::uint32_t align_a, align_b, align_c, align_d;
};
static_assert(sizeof(Choice) <= sizeof(cublasLtMatmulAlgo_t));

struct Problem {
  const Description& operation;
  MatrixLayout a, b, c, d;

  bool trans_a() const { return operation.transposed(CUBLASLT_MATMUL_DESC_TRANSA); }
  bool trans_b() const { return operation.transposed(CUBLASLT_MATMUL_DESC_TRANSB); }
  std::int64_t m() const { return trans_a() ? a.columns : a.rows; }
  std::int64_t n() const { return trans_b() ? b.rows : b.columns; }
  std::int64_t k() const { return trans_a() ? a.rows : a.columns; }

  bool is_valid() const {
    for (const MatrixLayout* x : {&a, &b, &c, &d}) {
      if (x->ld < x->rows || x->rows <= 0 || x->columns <= 0) return false;
    }
    return (trans_b() ? b.columns : b.rows) == k() && d.rows == m() && d.columns == n() && c.rows == m() &&
           c.columns == n();
  }

  cudaDataType bias_type() const {
    const cudaDataType otherwise = !is_fp8(a.type) || d.type != CUDA_R_32F ? d.type : CUDA_R_16BF;
    const int given = operation.get<std::int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, -1);
    return given < 0 ? otherwise : static_cast<cudaDataType>(given);
  }
  bool bias_is_supported() const {
    if (!is_fp8(a.type)) return bias_type() == d.type;
    return bias_type() == (d.type == CUDA_R_16F ? CUDA_R_16F : CUDA_R_16BF);
  }

  void check_asked() const {
    if (wanted() == "unasked" && operation.epilogue() != CUBLASLT_EPILOGUE_DEFAULT)
      fail("cuBLASLt: a product asks for epilogue %d", operation.epilogue());
  }

  // The tables of cublasLtMatmul().
  bool is_supported() const {
    const bool fast = operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if ((operation.compute != CUBLAS_COMPUTE_32F && !fast) || operation.scale != CUDA_R_32F) return false;
    if (fast && a.type != CUDA_R_32F) return false;
    if (c.type != d.type) return false;
    if (is_fp8(a.type) || is_fp8(b.type)) {
      if (!is_fp8(a.type) || !is_fp8(b.type) || (a.type == CUDA_R_8F_E5M2 && b.type == CUDA_R_8F_E5M2)) return false;
      if (is_fp8(d.type) || !trans_a() || trans_b()) return false;
      for (const MatrixLayout* x : {&a, &b, &d}) {
        if (x->rows % 16 != 0 || x->columns % 16 != 0 || x->ld * static_cast<std::int64_t>(bytes_of(x->type)) % 16 != 0)
          return false;
      }
    } else {
      if (a.type != b.type || (d.type != a.type && d.type != CUDA_R_32F)) return false;
      for (const auto which : {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER}) {
        if (operation.pointer<void>(which) != nullptr) return false;
      }
    }
    const bool plain = wanted() == "plain";
    switch (operation.epilogue()) {
      case CUBLASLT_EPILOGUE_DEFAULT: return true;
      case CUBLASLT_EPILOGUE_GELU: return !plain;
      case CUBLASLT_EPILOGUE_BIAS:
      case CUBLASLT_EPILOGUE_GELU_BIAS: return !plain && bias_is_supported();
      case CUBLASLT_EPILOGUE_BGRADA:
      case CUBLASLT_EPILOGUE_BGRADB: return !plain && !is_fp8(a.type) && bias_type() == d.type;
      default: fail("cuBLASLt: epilogue %d is not emulated", operation.epilogue());
    }
  }

  bool has_vector() const {
    return operation.epilogue() != CUBLASLT_EPILOGUE_DEFAULT && operation.epilogue() != CUBLASLT_EPILOGUE_GELU;
  }

  // The same for the same problem, and hardly for another one.
  std::uint64_t hash() const {
    std::uint64_t h = 1469598103934665603U;
    const auto add = [&](std::uint64_t x) { h = (h ^ x) * 1099511628211U; };
    for (const MatrixLayout* x : {&a, &b, &c, &d}) {
      for (const std::int64_t number : {std::int64_t{x->type}, x->rows, x->columns, x->ld})
        add(static_cast<std::uint64_t>(number));
    }
    add(operation.compute);
    add(trans_a() ? 1 : 0);
    add(trans_b() ? 1 : 0);
    add(operation.epilogue());
    add(has_vector() ? bias_type() : 0);
    return h;
  }
};

float element(const void* data, std::int64_t at, cudaDataType type) {
  switch (type) {
    case CUDA_R_32F: return static_cast<const float*>(data)[at];
    case CUDA_R_16F: return __half2float(static_cast<const __half*>(data)[at]);
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
    default:
      return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<const __nv_fp8_storage_t*>(data)[at],
                                                         type == CUDA_R_8F_E5M2 ? __NV_E5M2 : __NV_E4M3)));
  }
}
void set_element(void* data, std::int64_t at, cudaDataType type, float x) {
  switch (type) {
    case CUDA_R_32F: static_cast<float*>(data)[at] = x; return;
    case CUDA_R_16F: static_cast<__half*>(data)[at] = __float2half_rn(x); return;
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(x); return;
    default: fail("cuBLASLt: no result of type %d", type);
  }
}

Matrix read(const void* data, const MatrixLayout& layout) {
  Matrix x(layout.rows, layout.columns);
  for (std::int64_t column = 0; column < layout.columns; ++column) {
    for (std::int64_t row = 0; row < layout.rows; ++row)
      x(row, column) = element(data, column * layout.ld + row, layout.type);
  }
  return x;
}

// Ten bits behind the first.
float to_tf32(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (!std::isfinite(x)) return x;
  bits = (bits + 0xFFFU + (bits >> 13 & 1U)) & ~0x1FFFU;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float gelu(float x) { return 0.5F * x * (1.0F + std::tanh(0.7978845608F * (x + 0.044715F * x * x * x))); }

struct Call {
  Description operation;
  MatrixLayout a, b, c, d;
  float alpha, beta;
  const void *a_data, *b_data, *c_data;
  void *d_data, *workspace;
  std::size_t workspace_bytes;

  void run() const {
    if (workspace_bytes > 0) std::memset(workspace, 0xFF, workspace_bytes);
    const Problem problem{operation, a, b, c, d};
    Matrix left = read(a_data, a), right = read(b_data, b);
    if (problem.trans_a()) left.transposeInPlace();
    if (problem.trans_b()) right.transposeInPlace();
    const cublasLtEpilogue_t epilogue = operation.epilogue();
    void* vector = operation.pointer<void>(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
    std::vector<float> bias;
    if (epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS) {
      for (std::int64_t i = 0; i < d.rows; ++i) bias.push_back(element(vector, i, problem.bias_type()));
    }
    if (epilogue == CUBLASLT_EPILOGUE_BGRADA) {
      for (std::int64_t i = 0; i < d.rows; ++i) set_element(vector, i, problem.bias_type(), left.row(i).sum());
    }
    if (epilogue == CUBLASLT_EPILOGUE_BGRADB) {
      for (std::int64_t i = 0; i < d.columns; ++i) set_element(vector, i, problem.bias_type(), right.col(i).sum());
    }
    if (operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32) {
      left = left.unaryExpr(&to_tf32).eval();
      right = right.unaryExpr(&to_tf32).eval();
    }
    Matrix sums(d.rows, d.columns);
    sums.noalias() = left * right;
    float factor = alpha;
    for (const auto which : {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER}) {
      if (const auto* scale = operation.pointer<const float>(which)) factor *= *scale;
    }
    for (std::int64_t column = 0; column < d.columns; ++column) {
      for (std::int64_t row = 0; row < d.rows; ++row) {
        float x = sums(row, column) * factor;
        if (beta != 0) x += beta * element(c_data, column * c.ld + row, c.type);
        if (!bias.empty()) x += bias[static_cast<std::size_t>(row)];
        if (epilogue == CUBLASLT_EPILOGUE_GELU || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS) x = gelu(x);
        set_element(d_data, column * d.ld + row, d.type, x);
      }
    }
  }
};

template <class Mine, class Handle>
const Mine& mine(Handle handle) {
  return *reinterpret_cast<const Mine*>(handle);
}

bool is_aligned(const void* data, std::uint64_t to) { return reinterpret_cast<std::uintptr_t>(data) % to == 0; }

std::size_t attribute_bytes(cublasLtMatmulDescAttributes_t attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
    case CUBLASLT_MATMUL_DESC_TRANSB:
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return 4;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: return 8;
    default: return 0;
  }
}
std::size_t preference_bytes(cublasLtMatmulPreferenceAttributes_t attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return 8;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return 4;
    default: return 0;
  }
}

}  // namespace

struct cublasLtContext {};

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "the operation was successful";
    case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the operation is not supported";
    default: return "an error of the emulated cuBLASLt";
  }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute, cudaDataType_t scale) {
  *made = reinterpret_cast<cublasLtMatmulDesc_t>(new Description{{}, compute, scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t made) {
  delete reinterpret_cast<Description*>(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t made, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  return reinterpret_cast<Description*>(made)->set(attribute, value, bytes, attribute_bytes(attribute));
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *made = reinterpret_cast<cublasLtMatrixLayout_t>(
      new MatrixLayout{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns), ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t made) {
  delete reinterpret_cast<MatrixLayout*>(made);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = reinterpret_cast<cublasLtMatmulPreference_t>(new Attributes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t made) {
  delete reinterpret_cast<Attributes*>(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t made,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  return reinterpret_cast<Attributes*>(made)->set(attribute, value, bytes, preference_bytes(attribute));
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int count,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  const Problem problem{mine<Description>(operation), mine<MatrixLayout>(a), mine<MatrixLayout>(b),
                        mine<MatrixLayout>(c), mine<MatrixLayout>(d)};
  *found = 0;
  problem.check_asked();
  if (count < 1 || !problem.is_valid()) return CUBLAS_STATUS_INVALID_VALUE;
  const auto& p = mine<Attributes>(preference);
  const auto alignment = [&](cublasLtMatmulPreferenceAttributes_t which) { return p.get<std::uint32_t>(which, 256); };
  const Choice choice{
      problem.hash(),
      std::min<std::uint64_t>(kMostWorkspace, p.get<std::uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0)),
      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES),
      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES),
      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES),
      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)};
  const bool aligned = !is_fp8(problem.a.type) || std::min({choice.align_a, choice.align_b, choice.align_d}) >= 16;
  if (!problem.is_supported() || !aligned) return CUBLAS_STATUS_NOT_SUPPORTED;
  *results = {};
  std::memcpy(&results->algo, &choice, sizeof choice);
  results->workspaceSize = choice.workspace;
  results->state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  static const bool loaded = [] {
    emulated::load_library(kLibraryBytes);
    return true;
  }();
  static_cast<void>(loaded);
  const auto& description = mine<Description>(operation);
  const Problem problem{description, mine<MatrixLayout>(a_layout), mine<MatrixLayout>(b_layout),
                        mine<MatrixLayout>(c_layout), mine<MatrixLayout>(d_layout)};
  problem.check_asked();
  Choice choice;
  std::memcpy(&choice, algorithm, sizeof choice);
  if (choice.problem != problem.hash() || workspace_bytes < choice.workspace ||
      (workspace_bytes > 0 && workspace == nullptr))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_aligned(a, choice.align_a) || !is_aligned(b, choice.align_b) || !is_aligned(c, choice.align_c) ||
      !is_aligned(d, choice.align_d) || !is_aligned(workspace, 16))
    return CUBLAS_STATUS_INVALID_VALUE;
  const void* vector = description.pointer<void>(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  if (problem.has_vector() && (vector == nullptr || !is_aligned(vector, bytes_of(problem.bias_type()))))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (c == d && !(problem.c == problem.d)) return CUBLAS_STATUS_INVALID_VALUE;
  const Call call{description,
                  problem.a,
                  problem.b,
                  problem.c,
                  problem.d,
                  *static_cast<const float*>(alpha),
                  *static_cast<const float*>(beta),
                  a,
                  b,
                  c,
                  d,
                  workspace,
                  workspace_bytes};
  return emulated::enqueue(stream, [call] { call.run(); }) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                          : CUBLAS_STATUS_EXECUTION_FAILED;
}
