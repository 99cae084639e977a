// Copies to and from host memory move every byte, and nothing else.

#include "tests/support/op_harness.hpp"

#include <gtest/gtest.h>

#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

using namespace test;

TEST(HostCopies, MoveTheBytes) {
  const KernelTable kernels = cpu_kernels();
  for (const std::string_view name : {ToHost::name, FromHost::name}) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::f8e4m3}) {
      for (const OpCase& c : op_cases(op_info(name), dtype)) {
        SCOPED_TRACE(c.text());
        OpInputs in = random_inputs(c, 1);
        std::vector<double>& x = in.value[HostCopy::kX];
        x = to_numbers(to_bytes(x, dtype), dtype);
        in.value[HostCopy::kX].front() = -0.0;
        const OpResult result = run_op(kernels, c, in, {.threads = 2, .backward = false});
        EXPECT_EQ(to_numbers(result.value[HostCopy::kY], dtype), in.value[HostCopy::kX]);
        EXPECT_TRUE(std::signbit(to_numbers(result.value[HostCopy::kY], dtype).front()));
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll
