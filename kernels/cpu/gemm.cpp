#include "kernels/cpu/gemm.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>

#include "kernels/cpu/eigen_gemm.hpp"
#include "kernels/cpu/parallel.hpp"
#include "runtime/core/error.hpp"

#ifdef PLIMSOLL_HAVE_OPENBLAS
#include <cblas.h>
#endif
#ifdef PLIMSOLL_HAVE_ONEDNN
#include <dnnl.h>
#endif
#ifdef PLIMSOLL_HAVE_LIBXSMM
#include "kernels/cpu/xsmm_gemm.hpp"
#endif

namespace plimsoll {
namespace {

// The epilogue of a whole product that is done, rows shared among the threads.
template <class T>
void finish_in_rows(const GemmArguments<T>& p, int threads, GemmEpilogue epilogue) {
  if (!epilogue) return;
#pragma omp parallel for num_threads(threads) schedule(static) if (!omp_in_parallel() && p.m * p.n >= kSerialElements)
  for (std::int64_t i = 0; i < p.m; ++i) epilogue({i, i + 1, 0, p.n});
}

#ifdef PLIMSOLL_HAVE_OPENBLAS
template <class T>
void openblas_gemm(const GemmArguments<T>& p) {
  const auto narrow = [](std::int64_t x) {
    require(x <= std::numeric_limits<blasint>::max(), ErrorKind::Internal, "gemm: size {} does not fit OpenBLAS", x);
    return static_cast<blasint>(x);
  };
  const auto ta = p.trans_a ? CblasTrans : CblasNoTrans;
  const auto tb = p.trans_b ? CblasTrans : CblasNoTrans;
  const blasint m = narrow(p.m), n = narrow(p.n), k = narrow(p.k);
  const blasint lda = narrow(p.lda), ldb = narrow(p.ldb), ldc = narrow(p.ldc);
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1.0F, p.a, lda, p.b, ldb, p.beta, p.c, ldc);
  } else {
    cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1.0, p.a, lda, p.b, ldb, p.beta, p.c, ldc);
  }
}

// Shares of C, one per thread, each a product of its own: the threads of OpenBLAS wait for each other's packed blocks,
// which costs 3 to 8 % (gemm_bench). The longer side of C is cut, at multiples of kAlign.
template <class T>
void openblas_gemm_in_shares(const GemmArguments<T>& p, int threads, GemmEpilogue epilogue) {
  constexpr std::int64_t kAlign = 64, kLeastShare = 128;
  const bool rows = p.m >= p.n;
  const std::int64_t size = rows ? p.m : p.n;
  if (threads == 1 || omp_in_parallel() || size < kLeastShare * threads) {
    openblas_gemm(p);
    return finish_in_rows(p, threads, epilogue);
  }
  const std::int64_t share = ((size + threads - 1) / threads + kAlign - 1) / kAlign * kAlign;
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t begin = std::min(size, share * omp_get_thread_num()), end = std::min(size, begin + share);
    GemmArguments<T> part = p;
    (rows ? part.m : part.n) = end - begin;
    if (rows) {
      part.a += p.trans_a ? begin : begin * p.lda;
      part.c += begin * p.ldc;
    } else {
      part.b += p.trans_b ? begin * p.ldb : begin;
      part.c += begin;
    }
    if (end > begin) {
      openblas_gemm(part);
      if (epilogue) epilogue(rows ? GemmBlock{begin, end, 0, p.n} : GemmBlock{0, p.m, begin, end});
    }
  }
}
#endif

#ifdef PLIMSOLL_HAVE_ONEDNN
void onednn_gemm(const GemmArguments<float>& p) {
  const dnnl_status_t status = dnnl_sgemm(p.trans_a ? 'T' : 'N', p.trans_b ? 'T' : 'N', p.m, p.n, p.k, 1.0F, p.a, p.lda,
                                          p.b, p.ldb, p.beta, p.c, p.ldc);
  require(status == dnnl_success, ErrorKind::Internal, "dnnl_sgemm({} x {} x {}) failed with status {}", p.m, p.n, p.k,
          static_cast<int>(status));
}
#endif

enum class Backend { Libxsmm, OpenBlas, OneDnn, Eigen };

struct NamedBackend {
  Backend backend;
  std::string_view name;
};

constexpr auto kBackends = std::to_array<NamedBackend>({
#ifdef PLIMSOLL_HAVE_LIBXSMM
    {Backend::Libxsmm, "libxsmm"},
#endif
#ifdef PLIMSOLL_HAVE_OPENBLAS
    {Backend::OpenBlas, "openblas"},
#endif
#ifdef PLIMSOLL_HAVE_ONEDNN
    {Backend::OneDnn, "onednn"},
#endif
    {Backend::Eigen, "eigen"},
});

NamedBackend& selected() {
  static NamedBackend backend = kBackends.front();
  return backend;
}

template <class T>
void dispatch(const GemmArguments<T>& p, GemmEpilogue epilogue) {
  [[maybe_unused]] Backend backend = selected().backend;
#ifdef PLIMSOLL_HAVE_LIBXSMM
  if constexpr (std::is_same_v<T, float>) {
    if (backend == Backend::Libxsmm && xsmm_takes(p)) return xsmm_gemm(p, omp_get_max_threads(), epilogue);
  }
#endif
#ifdef PLIMSOLL_HAVE_ONEDNN
  if constexpr (std::is_same_v<T, float>) {
    if (backend == Backend::OneDnn) {
      onednn_gemm(p);
      return finish_in_rows(p, omp_get_max_threads(), epilogue);
    }
  }
#ifdef PLIMSOLL_HAVE_OPENBLAS
#endif
#endif
#ifdef PLIMSOLL_HAVE_OPENBLAS
  // also what libxsmm does not take, and double-precision products, which oneDNN does not have
  if (backend != Backend::Eigen) return openblas_gemm_in_shares(p, omp_get_max_threads(), epilogue);
#endif
  eigen_gemm(p);
  finish_in_rows(p, omp_get_max_threads(), epilogue);
}

template <class T>
void scale(const GemmArguments<T>& p) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    T* row = p.c + i * p.ldc;
    if (p.beta == T(0)) {
      std::fill_n(row, p.n, T(0));
    } else {
      for (std::int64_t j = 0; j < p.n; ++j) row[j] *= p.beta;
    }
  }
}

}  // namespace

void check_product(bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t lda,
                   std::int64_t ldb) {
  require(m >= 0 && n >= 0 && k >= 0, ErrorKind::Internal, "gemm: negative size {} x {} x {}", m, n, k);
  require(lda >= (trans_a ? m : k) && ldb >= (trans_b ? k : n), ErrorKind::Internal,
          "gemm: leading dimensions {} and {} are too short for {}{} x {} x {}", lda, ldb, trans_a ? "transposed " : "",
          m, n, k);
}

template <class T>
void gemm(bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
          const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc, GemmEpilogue epilogue) {
  const GemmArguments<T> p{{trans_a, trans_b, m, n, k, a, lda, b, ldb}, beta, c, ldc};
  check_product(trans_a, trans_b, m, n, k, lda, ldb);
  require(ldc >= n, ErrorKind::Internal, "gemm: leading dimension {} is too short for {} columns", ldc, n);
  if (m == 0 || n == 0) return;
  if (k > 0) return dispatch(p, epilogue);
  scale(p);
  finish_in_rows(p, omp_get_max_threads(), epilogue);
}

template void gemm<float>(bool, bool, std::int64_t, std::int64_t, std::int64_t, const float*, std::int64_t,
                          const float*, std::int64_t, float, float*, std::int64_t, GemmEpilogue);
template void gemm<double>(bool, bool, std::int64_t, std::int64_t, std::int64_t, const double*, std::int64_t,
                           const double*, std::int64_t, double, double*, std::int64_t, GemmEpilogue);

bool products_by_libxsmm() {
#ifdef PLIMSOLL_HAVE_LIBXSMM
  return selected().backend == Backend::Libxsmm;
#else
  return false;
#endif
}

std::string gemm_backend() { return std::string(selected().name); }

void set_gemm_backend(std::string_view name) {
  std::string known;
  for (const NamedBackend& backend : kBackends) {
    if (backend.name == name) {
      selected() = backend;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(backend.name);
  }
  fail(ErrorKind::Config, "this build has no gemm backend '{}'; it has: {}", name, known);
}

std::string gemm_description() {
  const Backend backend = selected().backend;
  std::string description;
#ifdef PLIMSOLL_HAVE_LIBXSMM
  if (backend == Backend::Libxsmm) description = xsmm_description();
  if (!description.empty()) description += ", ";
#endif
#ifdef PLIMSOLL_HAVE_ONEDNN
  if (backend == Backend::OneDnn) {
    const dnnl_version_t* v = dnnl_version();
    return fmt::format("oneDNN {}.{}.{} isa {:#x}", v->major, v->minor, v->patch,
                       static_cast<unsigned>(dnnl_get_effective_cpu_isa()));
  }
#endif
#ifdef PLIMSOLL_HAVE_OPENBLAS
  if (backend != Backend::Eigen) {
    const std::string_view config = openblas_get_config();  // "OpenBLAS 0.3.21 DYNAMIC_ARCH …"
    const auto end = config.find(' ', config.find(' ') + 1);
    return description + fmt::format("{} {}", config.substr(0, end), openblas_get_corename());
  }
#endif
  return description + eigen_description();
}

}  // namespace plimsoll
