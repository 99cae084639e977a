#include "runtime/tensor/convert.hpp"

#include <cstring>
#include <type_traits>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

template <class From, class To>
void convert(const std::byte* from, std::byte* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof(From)), sizeof(From));
    To result;
    if constexpr (std::is_arithmetic_v<From> && std::is_arithmetic_v<To>) {
      result = static_cast<To>(value);
    } else {
      result = static_cast<To>(static_cast<float>(value));
    }
    std::memcpy(to + i * static_cast<std::int64_t>(sizeof(To)), &result, sizeof(To));
  }
}

// Calls f with a value of the type.
template <class F>
void with_floating(DType type, const F& f) {
  switch (type) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(bf16{});
    case DType::f16: return f(f16{});
    case DType::f8e4m3: return f(F8E4M3{});
    case DType::f8e5m2: return f(F8E5M2{});
    case DType::i32:
    case DType::i64:
    case DType::u8: break;
  }
  fail(ErrorKind::Internal, "{} is not a floating type", dtype_name(type));
}

}  // namespace

void convert_elements(DType from, const void* in, DType to, void* out, std::int64_t count) {
  with_floating(from, [&](auto a) {
    with_floating(to, [&](auto b) {
      convert<decltype(a), decltype(b)>(static_cast<const std::byte*>(in), static_cast<std::byte*>(out), count);
    });
  });
}

}  // namespace plimsoll
