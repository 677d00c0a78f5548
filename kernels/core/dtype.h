// Element types of tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string_view>

#include "quant/format.h"
#include "quant/half.h"

namespace engine {

enum class DType : std::uint8_t { kF32, kF16, kBF16, kI32, kU8 };

// Bytes of one element.
constexpr std::size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

// "f32", "f16", "bf16", "i32", "u8".
std::string_view dtype_name(DType dtype);
std::ostream& operator<<(std::ostream& out, DType dtype);

constexpr bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// The plain weight format that stores elements of a floating-point `dtype`.
QuantFormat plain_format(DType dtype);

// Storage types of the CPU: distinct types so that templates can tell them apart.
struct f16_t {
  std::uint16_t bits;
};
struct bf16_t {
  std::uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(f16_t x) { return f16_to_float(x.bits); }
inline float to_float(bf16_t x) { return bf16_to_float(x.bits); }

template <typename T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline f16_t from_float<f16_t>(float x) {
  return {float_to_f16(x)};
}
template <>
inline bf16_t from_float<bf16_t>(float x) {
  return {float_to_bf16(x)};
}

}  // namespace engine
