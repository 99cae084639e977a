// The keys of the cuda section.

#include "runtime/core/keys.hpp"
#include "kernels/config.hpp"

namespace plimsoll {

KeyTable<CudaConfig> cuda_keys() {
  using C = CudaConfig;
  return {
      .keys = {
          key("share", &C::share, "ranks of a host may use the same GPU, each within its own memory.budget"),
          key("graphs", &C::graphs,
              "forward, backward and update of a micro-batch are recorded once and launched as one; where they "
              "communicate or copy, what lies between. What cannot be recorded is launched node by node, with a "
              "warning; so is everything while run.trace is given"),
          key("aware_mpi", &C::aware_mpi,
              "where messages are staged, an MPI library that was built for CUDA gets the memory of the device; off: "
              "always memory of the host, for a library that says so and does not do it"),
          key("epilogues", &C::epilogues,
              "biases, their gradients and GELU ride in products where the library has that; off: they are kernels of "
              "their own, for GPUs whose library makes such products with slower kernels. Both are deterministic, and "
              "their bits differ"),
          key("tf32", &C::tf32, "with precision: fp32, matrix products round their operands to TF32"),
      }};
}

}  // namespace plimsoll
