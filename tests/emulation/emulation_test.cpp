// That the emulated GPU computes what it should, and finds what it says that it finds.

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "tests/emulation/faults.hpp"
#include "tests/support/environment.hpp"

namespace emulated::test {
namespace {

class Stream {
 public:
  Stream() { cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, 0); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void synchronize() const { EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Floats on the device.
class Floats {
 public:
  explicit Floats(std::size_t n) : n_(n) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, n * sizeof(float)), cudaSuccess);
    at_ = static_cast<float*>(memory);
  }
  explicit Floats(const std::vector<float>& numbers) : Floats(numbers.size()) {
    const Stream stream;
    cudaMemcpyAsync(at_, numbers.data(), n_ * sizeof(float), cudaMemcpyDefault, stream.get());
    stream.synchronize();
  }
  ~Floats() { cudaFree(at_); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* at() const { return at_; }
  // As `stream` finds them; of this class's own stream where it is null.
  std::vector<float> read(cudaStream_t stream = nullptr) const {
    const Stream own;
    std::vector<float> numbers(n_);
    cudaMemcpyAsync(numbers.data(), at_, n_ * sizeof(float), cudaMemcpyDefault, stream == nullptr ? own.get() : stream);
    return numbers;
  }

 private:
  std::size_t n_;
  float* at_ = nullptr;
};

std::vector<float> rising(std::size_t n) {
  std::vector<float> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 1.0F);
  return numbers;
}

TEST(EmulatedGrid, RunsBlocksWithBarriers) {
  const Stream stream;
  const Floats from(rising(64)), to(1);
  sum_block(stream.get(), from.at(), to.at(), true);
  EXPECT_EQ(to.read(stream.get()).front(), 64 * 65 / 2);
  write_from_blocks(stream.get(), to.at(), false);
  EXPECT_EQ(to.read(stream.get()).front(), 0);
  const Floats sums(2);
  sum_warps(stream.get(), from.at(), sums.at(), true);
  EXPECT_EQ(sums.read(stream.get()), (std::vector<float>{528, 1552}));  // of 1 to 32, and of 33 to 64
}

// A copy runs what it waits for.
#define EXPECT_FAULT(launch, text) \
  EXPECT_DEATH(                    \
      {                            \
        launch;                    \
        to.read(stream.get());     \
      },                           \
      text)

TEST(EmulatedGridDeathTest, FindsRaces) {
  const Stream stream;
  const Floats from(rising(64)), to(2);
  EXPECT_FAULT(sum_block(stream.get(), from.at(), to.at(), false), "races with another thread of its block");
  EXPECT_FAULT(sum_warps(stream.get(), from.at(), to.at(), false), "races with another thread of its block");
  EXPECT_FAULT(write_from_blocks(stream.get(), to.at(), true), "races with another block");
}

TEST(EmulatedGridDeathTest, FindsThreadsThatDoNotMeet) {
  const Stream stream;
  const Floats to(64);
  meet(stream.get(), to.at(), 32);  // whole warps may go their own ways
  EXPECT_EQ(to.read(stream.get()).back(), 1);
  EXPECT_FAULT(meet(stream.get(), to.at(), 48), "wait for each other");
  read_lane(stream.get(), 16, 15, to.at());
  EXPECT_EQ(to.read(stream.get()).front(), 15);
  EXPECT_FAULT(read_lane(stream.get(), 16, 16, to.at()), "takes no part");
}

TEST(EmulatedGridDeathTest, FindsAccessesThatDoNotBelong) {
  const Stream stream;
  const Floats from(rising(1024)), to(4);
  copy_wide(stream.get(), from.at(), 4, to.at());
  EXPECT_EQ(to.read(stream.get()).front(), 5);
  EXPECT_FAULT(copy_wide(stream.get(), from.at(), 1, to.at()), "an access");
  EXPECT_FAULT(copy_wide(stream.get(), from.at(), 1024, to.at()), "beyond|memory of the host");
  const std::vector<float> host(64);
  EXPECT_FAULT(sum_block(stream.get(), host.data(), to.at(), true), "memory of the host");
  EXPECT_FAULT(touch_shared(stream.get(), 8, 0, to.at()), "index 8 is out of bounds");
  EXPECT_FAULT(touch_shared(stream.get(), 0, 8, to.at()), "beyond|memory of the host");
  touch_shared(stream.get(), 0, 1, to.at());
  EXPECT_TRUE(std::isnan(to.read(stream.get()).front())) << "shared memory that nobody wrote";
}

TEST(EmulatedDeviceDeathTest, HostReachesNoMemoryOfTheDevice) {
  const Floats to(1);
  EXPECT_DEATH(*to.at() = 1, "");
}

TEST(EmulatedDevice, StreamsWaitOnlyForWhatTheyAreTold) {
  const Stream first, second;
  const Floats to(1);
  write_from_blocks(first.get(), to.at(), false);
  EXPECT_TRUE(std::isnan(to.read(second.get()).front())) << "nobody has waited";
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  cudaEventRecord(event, first.get());
  cudaStreamWaitEvent(second.get(), event, 0);
  EXPECT_EQ(to.read(second.get()).front(), 0);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  cudaEventDestroy(event);
}

TEST(EmulatedDevice, CapturesAndReplays) {
  const Stream stream;
  const Floats to(1);
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  write_from_blocks(stream.get(), to.at(), false);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  EXPECT_TRUE(std::isnan(to.read(stream.get()).front())) << "captured, not run";
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  cudaGraphDestroy(graph);
  for (int i = 0; i < 2; ++i) {
    cudaMemsetAsync(to.at(), 0xFF, sizeof(float), stream.get());
    cudaGraphLaunch(executable, stream.get());
    EXPECT_EQ(to.read(stream.get()).front(), 0);
  }
  cudaGraphExecDestroy(executable);
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 1), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaErrorStreamCaptureInvalidated);
}

// D = A · B, column-major, A [m, k] and B [k, n], as they are stored.
class CublasLt : public testing::Test {
 protected:
  static constexpr int kM = 3, kN = 2, kK = 4;

  CublasLt() {
    cublasLtCreate(&handle_);
    cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a_, CUDA_R_32F, kM, kK, kM);
    cublasLtMatrixLayoutCreate(&b_, CUDA_R_32F, kK, kN, kK);
    cublasLtMatrixLayoutCreate(&d_, CUDA_R_32F, kM, kN, kM);
    cublasLtMatmulPreferenceCreate(&preference_);
  }
  ~CublasLt() override {
    cublasLtMatmulPreferenceDestroy(preference_);
    for (cublasLtMatrixLayout_t layout : {a_, b_, d_}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(operation_);
    cublasLtDestroy(handle_);
  }

  void set(cublasLtEpilogue_t epilogue) {
    const auto* vector = static_cast<const void*>(vector_.at());
    cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector, sizeof vector);
  }
  bool choose() {
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    cublasLtMatmulAlgoGetHeuristic(handle_, operation_, a_, b_, d_, d_, preference_, 1, &best, &found);
    algorithm_ = best.algo;
    return found == 1;
  }
  cublasStatus_t multiply(float beta = 0, std::size_t skipped = 0) {
    const float alpha = 1;
    return cublasLtMatmul(handle_, operation_, &alpha, left_.at() + skipped, a_, right_.at(), b_, &beta, result_.at(),
                          d_, result_.at(), d_, &algorithm_, nullptr, 0, stream_.get());
  }
  static float sum(int row, int column) {
    float x = 0;
    for (int k = 0; k < kK; ++k) x += static_cast<float>((k * kM + row + 1) * (column * kK + k + 1));
    return x;
  }

  const Stream stream_;
  const Floats left_{rising(kM * kK + 64)}, right_{rising(kK * kN)}, result_{kM * kN}, vector_{rising(kM)};
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

TEST_F(CublasLt, AddsABiasToTheRows) {
  set(CUBLASLT_EPILOGUE_BIAS);
  ASSERT_TRUE(choose());
  ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(multiply(1), CUBLAS_STATUS_SUCCESS);
  const std::vector<float> found = result_.read(stream_.get());
  for (int column = 0; column < kN; ++column) {
    for (int row = 0; row < kM; ++row)
      EXPECT_EQ(found[static_cast<std::size_t>(column * kM + row)],
                2 * (sum(row, column) + static_cast<float>(row + 1)));
  }
}

TEST_F(CublasLt, SumsOverTheInnerDimension) {
  set(CUBLASLT_EPILOGUE_BGRADA);
  ASSERT_TRUE(choose());
  ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(vector_.read(stream_.get()), (std::vector<float>{1 + 4 + 7 + 10, 2 + 5 + 8 + 11, 3 + 6 + 9 + 12}));
  EXPECT_EQ(result_.read(stream_.get()).front(), sum(0, 0));
  set(CUBLASLT_EPILOGUE_BGRADB);
  ASSERT_TRUE(choose());
  ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(vector_.read(stream_.get()), (std::vector<float>{1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 3 + 6 + 9 + 12}));
}

TEST_F(CublasLt, SeesWhoAsksForAnEpilogue) {
  const plimsoll::test::EnvironmentVariable unasked("EMULATED_CUBLASLT", "unasked");
  EXPECT_TRUE(choose());
  EXPECT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  set(CUBLASLT_EPILOGUE_BIAS);
  EXPECT_DEATH(choose(), "a product asks for epilogue");
  EXPECT_DEATH(multiply(), "a product asks for epilogue");
}

TEST_F(CublasLt, RefusesWhatWasNotChosen) {
  ASSERT_TRUE(choose());
  EXPECT_EQ(multiply(0, 1), CUBLAS_STATUS_INVALID_VALUE) << "256 bytes of alignment were promised";
  EXPECT_EQ(multiply(0, 64), CUBLAS_STATUS_SUCCESS);
  set(CUBLASLT_EPILOGUE_BIAS);
  EXPECT_EQ(multiply(), CUBLAS_STATUS_INVALID_VALUE) << "chosen without a bias";
  const std::int64_t wrong = 0;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_TRANSA, &wrong, sizeof wrong),
            CUBLAS_STATUS_INVALID_VALUE);
}

}  // namespace
}  // namespace emulated::test
