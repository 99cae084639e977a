#pragma once
// TensorSpec: shape and dtype of a dense row-major tensor. View: a pointer with its spec; owns nothing.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "runtime/core/error.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

inline constexpr int kMaxRank = 6;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    for (const std::int64_t d : dims) push_back(d);
  }
  void push_back(std::int64_t dim) {
    require(rank_ < kMaxRank, ErrorKind::Internal, "a tensor has at most {} dims", kMaxRank);
    dims_[static_cast<std::size_t>(rank_++)] = dim;
  }
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i < 0 ? i + rank_ : i)]; }
  std::int64_t& operator[](int i) { return dims_[static_cast<std::size_t>(i < 0 ? i + rank_ : i)]; }
  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + rank_; }
  bool operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (const std::int64_t d : *this) n *= d;
    return n;
  }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

struct TensorSpec {
  Shape shape;
  DType dtype = DType::f32;
  std::int64_t elements() const { return shape.elements(); }
  std::int64_t bytes() const { return elements() * dtype_bytes(dtype); }
  std::int64_t last() const { return shape.rank() == 0 ? 1 : shape[-1]; }
  std::int64_t rows() const { return last() == 0 ? 0 : elements() / last(); }  // all dims but the last, flattened
  bool operator==(const TensorSpec&) const = default;
};

// "f32[4, 256, 768]"
inline std::string to_string(const TensorSpec& s) {
  return fmt::format("{}[{}]", dtype_name(s.dtype), fmt::join(s.shape.begin(), s.shape.end(), ", "));
}

struct View {
  void* data = nullptr;
  TensorSpec spec;
  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace plimsoll
