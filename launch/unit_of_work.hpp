#pragma once
// What ranks do before or beside a collective that is measured, as in a step: a product of matrices of some
// milliseconds or less, with the threads that products were told to use.

#include <cstdint>
#include <vector>

#include "kernels/cpu/gemm.hpp"

namespace plimsoll {

class UnitOfWork {
 public:
  explicit UnitOfWork(std::int64_t rows = 256)
      : rows_(rows), a_(static_cast<std::size_t>(rows * rows), 1.0F), b_(a_), c_(a_) {}
  void operator()() const {
    gemm(false, true, rows_, rows_, rows_, a_.data(), rows_, b_.data(), rows_, 0.0F, c_.data(), rows_);
  }

 private:
  std::int64_t rows_;
  std::vector<float> a_, b_;
  mutable std::vector<float> c_;  // nobody reads it
};

}  // namespace plimsoll
