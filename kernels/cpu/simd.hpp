#pragma once
// A register of numbers: loads and stores, the exponential, the transpose of a square of them. On the compiler's vector
// types, so that it is vector code at every optimisation level.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace plimsoll::simd {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  using Type [[gnu::vector_size(kVectorBytes), gnu::may_alias]] = T;
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
inline constexpr std::int64_t kLanes = kVectorBytes / std::int64_t{sizeof(T)};
// As wide as T: what a comparison of vectors of T gives.
template <class T>
using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

// In memory, at a multiple of kVectorBytes.
template <class T>
const Vector<T>& at(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}
template <class T>
Vector<T>& at(T* p) {
  return *reinterpret_cast<Vector<T>*>(p);
}

// At any address.
template <class T>
Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class T>
void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

// e^x for x <= 0, within 2 ulp; exactly 0 below -87 in float. Cody-Waite reduction to |r| <= ln2/2 and the Taylor
// polynomial of degree 7.
inline Vector<float> exp_nonpositive(Vector<float> x) {
  using Bits = Vector<std::uint32_t>;  // wraps where x is far below -87
  const Vector<float> zero{};
  const Vector<float> shifted =
      x * 1.44269504088896341F + 12582912.0F;  // rounds to an integer in the low mantissa bits
  const Vector<float> n = shifted - 12582912.0F;
  const Vector<float> r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  Vector<float> p = zero + 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const Bits scale = ((Bits)shifted << 23) + 0x3F800000U;
  const Vector<float> y = p * (Vector<float>)scale;
  return x < -87.0F ? zero : y;
}
inline Vector<double> exp_nonpositive(Vector<double> x) {
  for (std::int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// A kSide x kSide matrix.
struct Square {
  static constexpr int kSide = static_cast<int>(kLanes<float>);
  Vector<float> row[kSide];
};

// By log2(kSide) perfect shuffles of its two halves.
inline void transpose(Square& square) {
  constexpr int kSide = Square::kSide, kHalf = kSide / 2;
  const auto interleave = []<int... l>(const Vector<float>& x, const Vector<float>& y, Vector<float>* to,
                                       std::integer_sequence<int, l...>) {
    to[0] = __builtin_shufflevector(x, y, (l / 2 + (l % 2) * kSide)...);
    to[1] = __builtin_shufflevector(x, y, (kHalf + l / 2 + (l % 2) * kSide)...);
  };
#pragma GCC unroll 4
  for (int stage = 1; stage < kSide; stage *= 2) {
    Square next;
#pragma GCC unroll 16
    for (int i = 0; i < kHalf; ++i)
      interleave(square.row[i], square.row[i + kHalf], next.row + 2 * i, std::make_integer_sequence<int, kSide>{});
    square = next;
  }
}

}  // namespace plimsoll::simd
