#include "kernels/cuda_module.hpp"

#include <dlfcn.h>

#include <filesystem>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// Stays open: kernels are called to the end of the process.
const CudaModule& open_module() {
  const fs::path file = cuda_module_file();
  void* module = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* reason = module == nullptr ? dlerror() : "";
  require(module != nullptr, ErrorKind::Device, "device: cuda: {} cannot be loaded: {}", file.string(),
          reason == nullptr ? "unknown reason" : reason);
  const auto entry = reinterpret_cast<const CudaModule* (*)()>(dlsym(module, "plimsoll_cuda_module"));
  require(entry != nullptr && entry()->interface == cuda_interface(), ErrorKind::Device,
          "device: cuda: {} is of another build than this program", file.string());
  return *entry();
}

}  // namespace

// Beside the program where it was built, in the library folder beside its own where it was installed.
fs::path cuda_module_file() {
  const fs::path name = "libplimsoll_cuda.so", program = fs::read_symlink("/proc/self/exe").parent_path();
  const fs::path built = program / name, installed = program.parent_path() / PLIMSOLL_LIBRARY_FOLDER / name;
  require(fs::exists(built) || fs::exists(installed), ErrorKind::Device,
          "device: cuda needs the module {}, which is neither in {} nor in {}", name.string(), program.string(),
          installed.parent_path().string());
  return fs::exists(built) ? built : installed;
}

bool cuda_is_built() {
#ifdef PLIMSOLL_HAVE_CUDA
  return true;
#else
  return false;
#endif
}

const CudaModule& cuda_module() {
  require(cuda_is_built(), ErrorKind::Config, "this build has no CUDA: configure it with the preset cuda");
  static const CudaModule& module = open_module();
  return module;
}

}  // namespace plimsoll
