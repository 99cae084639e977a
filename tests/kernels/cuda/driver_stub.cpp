// A driver of no GPU, as far as cuDNN asks one when it makes a plan for a GPU that is described: it looks all of these
// up, loads what it compiled and takes a kernel of it, which nobody launches. The others are not called, and fail.

namespace {

constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
int loaded = 0;                 // its address is the handle of everything

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the driver's names
extern "C" {

int cuDeviceGetCount(int* count) { return *count = 0; }
int cuGetErrorString(int, const char** text) {
  *text = "of a driver without a GPU";
  return 0;
}
int cuLibraryLoadData(void** library, ...) {
  *library = &loaded;
  return 0;
}
int cuLibraryGetKernel(void** kernel, ...) {
  *kernel = &loaded;
  return 0;
}
int cuLibraryUnload(void*) { return 0; }

int cuCtxGetCurrent() { return kNoDevice; }
int cuCtxGetLimit() { return kNoDevice; }
int cuCtxPopCurrent() { return kNoDevice; }
int cuCtxPushCurrent() { return kNoDevice; }
int cuDeviceGet() { return kNoDevice; }
int cuDriverGetVersion() { return kNoDevice; }
int cuGetErrorName() { return kNoDevice; }
int cuKernelGetAttribute() { return kNoDevice; }
int cuKernelSetAttribute() { return kNoDevice; }
int cuLaunchCooperativeKernel() { return kNoDevice; }
int cuLaunchKernel() { return kNoDevice; }
int cuLaunchKernelEx() { return kNoDevice; }
int cuLibraryLoadFromFile() { return kNoDevice; }
int cuLinkAddData() { return kNoDevice; }
int cuLinkComplete() { return kNoDevice; }
int cuLinkCreate() { return kNoDevice; }
int cuLinkDestroy() { return kNoDevice; }
int cuOccupancyMaxPotentialClusterSize() { return kNoDevice; }
int cuStreamGetCtx() { return kNoDevice; }

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
