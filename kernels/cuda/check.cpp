#include "kernels/cuda/check.hpp"

#include <cublasLt.h>
#ifdef PLIMSOLL_HAVE_CUDNN
#include <cudnn.h>
#endif

#include <string>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// " on GPU 1"; nothing where there is none.
std::string device_text() {
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess ? fmt::format(" on GPU {}", device) : "";
}

[[noreturn]] void fail_call(ErrorKind kind, const char* call, const char* reason, long long code,
                            const SourcePlace& where) {
  throw Error(kind, fmt::format("{}{} failed: {} (code {})", call, device_text(), reason, code), where);
}

}  // namespace

void check_cuda(cudaError_t code, const char* call, SourcePlace where) {
  if (code == cudaSuccess) return;
  const ErrorKind kind = code == cudaErrorMemoryAllocation ? ErrorKind::OutOfMemory : ErrorKind::Device;
  fail_call(kind, call, cudaGetErrorString(code), code, where);
}

void check_launch(const char* kernel, SourcePlace where) { check_cuda(cudaGetLastError(), kernel, where); }

void check_cublas(int status, const char* call, SourcePlace where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail_call(status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorKind::OutOfMemory : ErrorKind::Device, call,
            cublasLtGetStatusString(static_cast<cublasStatus_t>(status)), status, where);
}

void check_cudnn(int status, const char* call, SourcePlace where) {
  if (status == 0) return;
#ifdef PLIMSOLL_HAVE_CUDNN
  const char* reason = cudnnGetErrorString(static_cast<cudnnStatus_t>(status));
#else
  const char* reason = "this build has no cuDNN";
#endif
  fail_call(ErrorKind::Device, call, reason, status, where);
}

}  // namespace plimsoll
