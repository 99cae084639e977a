#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/emulation/device_state.hpp"
#include "tests/emulation/grid.hpp"

namespace emulated {
namespace {

constexpr std::size_t kContextBytes = std::size_t{400} << 20;

int device_count() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible != nullptr && std::string_view(visible).empty() ? 0 : 1;
}

}  // namespace

Device& device() {
  static Device* const the_device = new Device;
  return *the_device;
}

ThreadState& this_thread() {
  thread_local ThreadState state;
  return state;
}

cudaError_t failed(cudaError_t code) {
  if (code != cudaSuccess) this_thread().last_error = code;
  return code;
}

void use_context() {
  Device& d = device();
  if (d.has_context) return;
  d.has_context = true;
  d.used += kContextBytes;
}

bool unsafe_now() {
  for (CUstream_st* stream : this_thread().capturing) stream->invalid = true;
  return !this_thread().capturing.empty();
}

void set_last_error(cudaError_t code) { failed(code); }

std::size_t allowed_shared_bytes(const void* kernel) {
  Lock lock(device().mutex);
  const auto at = device().shared_bytes.find(kernel);
  return at == device().shared_bytes.end() ? 0 : at->second;
}

void load_library(std::size_t bytes) {
  Lock lock(device().mutex);
  device().used += bytes;
}

}  // namespace emulated

using namespace emulated;

// The runtime's functions, as cuda_runtime_api.h declares and describes them.

cudaError_t cudaGetLastError() {
  const cudaError_t code = this_thread().last_error;
  this_thread().last_error = cudaSuccess;
  return code;
}

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "no error";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    default: return "an error of the emulated GPU";
  }
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (device_count() == 0) return failed(cudaErrorNoDevice);
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) {
  if (index != 0 || device_count() == 0) return failed(cudaErrorInvalidDevice);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
  if (index != 0) return failed(cudaErrorInvalidDevice);
  *properties = {};
  // Known to the table of devices, so that nobody measures it.
  std::snprintf(properties->name, sizeof properties->name, "NVIDIA H200 (emulated)");
  properties->major = 9;
  properties->totalGlobalMem = kTotalBytes;
  properties->warpSize = 32;
  properties->multiProcessorCount = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int) {
  std::snprintf(id, static_cast<std::size_t>(bytes), "0000:EE:00.0");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) fail("cudaFuncSetAttribute(%d)", attribute);
  if (value < 0 || value > 227 * 1024) return failed(cudaErrorInvalidValue);
  Lock lock(device().mutex);
  device().shared_bytes[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}
