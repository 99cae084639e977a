#include "launch/info.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "kernels/cuda_module.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// On any machine: the libraries of CUDA need neither a driver nor a GPU to say what they are.
TEST(Info, NamesTheLibrariesThatABuildWithCudaRunsWith) {
  const auto info = nlohmann::json::parse(info_text("an MPI", true));
  if (!cuda_is_built()) {
    EXPECT_EQ(info["cuda"], "not built");
    EXPECT_FALSE(info.contains("cuda_libraries"));
    return;
  }
  try {
    cuda_module();
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const bool cudnn = cuda_module().versions().cudnn > 0;
  const std::vector<std::string> wanted{
      "CUDA runtime [1-9]\\d*\\.\\d", "CUDA driver (none|[1-9]\\d*\\.\\d)", "cuBLAS [1-9]\\d*\\.\\d+\\.\\d+",
      cudnn ? "cuDNN [1-9]\\d*\\.\\d+\\.\\d+" : "cuDNN none", "NCCL (none|[1-9].*|not to be used here: .*)"};
  const auto found = info["cuda_libraries"].get<std::vector<std::string>>();
  ASSERT_EQ(found.size(), wanted.size()) << info["cuda_libraries"];
  for (std::size_t i = 0; i < wanted.size(); ++i)
    EXPECT_TRUE(std::regex_match(found[i], std::regex(wanted[i]))) << found[i];
}

}  // namespace
}  // namespace plimsoll
