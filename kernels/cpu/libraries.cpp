#include "kernels/cpu/libraries.hpp"

#include <fmt/format.h>

#include <Eigen/Core>
#include <string_view>
#ifdef PLIMSOLL_HAVE_LIBXSMM
#include <libxsmm.h>
#endif
#ifdef PLIMSOLL_HAVE_OPENBLAS
#include <cblas.h>
#endif
#ifdef PLIMSOLL_HAVE_ONEDNN
#include <dnnl.h>
#endif

namespace plimsoll {

std::vector<std::string> kernel_libraries() {
  std::vector<std::string> names;
#ifdef PLIMSOLL_HAVE_LIBXSMM
  names.push_back(fmt::format("libxsmm {}.{}", LIBXSMM_VERSION_MAJOR, LIBXSMM_VERSION_MINOR));
#endif
#ifdef PLIMSOLL_HAVE_OPENBLAS
  const std::string_view config = openblas_get_config();  // "OpenBLAS 0.3.21 DYNAMIC_ARCH …"
  names.emplace_back(config.substr(0, config.find(' ', config.find(' ') + 1)));
#endif
#ifdef PLIMSOLL_HAVE_ONEDNN
  const dnnl_version_t* v = dnnl_version();
  names.push_back(fmt::format("oneDNN {}.{}.{}", v->major, v->minor, v->patch));
#endif
  names.push_back(fmt::format("Eigen {}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION));
  return names;
}

}  // namespace plimsoll
