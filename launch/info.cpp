#include "launch/info.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "comm/nccl_api.hpp"
#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/libraries.hpp"
#include "kernels/cuda_errors.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/process.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

std::vector<std::string> libraries() {
  std::vector<std::string> names = kernel_libraries();
  names.insert(
      names.end(),
      {fmt::format("SentencePiece {}", PLIMSOLL_SENTENCEPIECE_VERSION),
       fmt::format("protobuf {}", PLIMSOLL_PROTOBUF_VERSION), fmt::format("yaml-cpp {}", PLIMSOLL_YAML_CPP_VERSION),
       fmt::format("CLI11 {}", PLIMSOLL_CLI11_VERSION), fmt::format("spdlog {}", PLIMSOLL_SPDLOG_VERSION),
       fmt::format("fmt {}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100),
       fmt::format("nlohmann-json {}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                   NLOHMANN_JSON_VERSION_PATCH)});
  return names;
}

std::string nccl_text() {
  if (!nccl_is_built()) return "NCCL none";
  try {
    return fmt::format("NCCL {}", open_nccl()->version());
  } catch (const Error& error) {
    return fmt::format("NCCL not to be used here: {}", error.what());
  }
}

// What the build and the machine have; where `device: cuda` cannot work, why. The libraries also there, as far as the
// module can be opened; none of a build without CUDA.
struct CudaInfo {
  std::string text = "not built";
  std::vector<std::string> libraries;
};
CudaInfo cuda_info() {
  CudaInfo info;
  if (!cuda_is_built()) return info;
  try {
    const CudaModule& module = cuda_module();
    const CudaVersions v = module.versions();
    info.libraries = {fmt::format("CUDA runtime {}", cuda_version_text(v.runtime)),
                      fmt::format("CUDA driver {}", v.driver > 0 ? cuda_version_text(v.driver) : "none"),
                      fmt::format("cuBLAS {}", library_version_text(v.cublas)),
                      fmt::format("cuDNN {}", v.cudnn > 0 ? library_version_text(v.cudnn) : "none")};
    const std::vector<CudaDeviceInfo> devices = module.devices();
    info.text =
        fmt::format("built for CUDA {}, driver for {}", cuda_version_text(v.built_for), cuda_version_text(v.driver));
    for (const CudaDeviceInfo& d : devices)
      info.text +=
          fmt::format("; {}, {}, compute capability {}.{}", d.name, format_bytes(d.memory_bytes), d.major, d.minor);
  } catch (const Error& error) {
    info.text = fmt::format("built, but not to be used here: {}", error.what());
  }
  info.libraries.push_back(nccl_text());
  return info;
}

}  // namespace

std::string info_text(const std::string& mpi_version, bool json) {
  const auto device = make_cpu_device(1);
  const DeviceMemory memory = device->memory();
  const CudaInfo cuda = cuda_info();
  nlohmann::ordered_json info{
      {"version", PLIMSOLL_VERSION},
      {"commit", built_commit()},
      {"build", PLIMSOLL_BUILD_TYPE},
      {"compiler", fmt::format("g++ {}", __VERSION__)},
      {"precisions", nlohmann::json::array({"fp32", "bf16", "fp16", "fp64"})},
      {"devices", cuda_is_built() ? nlohmann::json::array({"cpu", "cuda"}) : nlohmann::json::array({"cpu"})},
      {"cuda", cuda.text},
      {"cpu", cpu_model()},
      {"cores", usable_cores()},
      {"avx512", cpu_has_avx512()},
      {"memory_total_bytes", memory.total_bytes},
      {"memory_free_bytes", memory.free_bytes},
      {"matrix_products", gemm_description()},
      {"mpi", mpi_version},
      {"libraries", libraries()}};
  if (!cuda.libraries.empty()) info["cuda_libraries"] = cuda.libraries;
  info["environment"] = environment_changes();
  if (json) return info.dump(2) + "\n";
  std::string out;
  for (const auto& [key, value] : info.items()) {
    out += fmt::format("{:<20}{}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return out;
}

}  // namespace plimsoll
