// Seeded inputs of tests: the same values on every machine and backend.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/reference/reference.h"

namespace engine::test {

using reference::Values;

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // In [0, 1), a multiple of 2^-24: exact in fp32.
  double unit() { return static_cast<double>(bits() >> 40) * 0x1p-24; }
  double uniform(double low, double high) { return low + (high - low) * unit(); }
  // In [0, count).
  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(count));
  }

 private:
  std::uint64_t state_;
};

// `count` values of [low, high), rounded to `dtype` as the tensor will store them.
inline Values uniform(std::int64_t count, std::uint64_t seed, DType dtype, double low = -1.0,
                      double high = 1.0) {
  Random random(seed);
  Values values(static_cast<std::size_t>(count));
  for (double& value : values) value = reference::round_to(dtype, random.uniform(low, high));
  return values;
}

// Stored bytes of values that `dtype` holds exactly (rounded to nearest even where it doesn't).
inline void encode(DType dtype, std::span<const double> values, std::byte* out) {
  const auto put = [&](std::size_t i, auto element) {
    std::memcpy(out + i * sizeof(element), &element, sizeof(element));
  };
  for (std::size_t i = 0; i < values.size(); ++i) {
    switch (dtype) {
      case DType::kF32:
        put(i, static_cast<float>(values[i]));
        break;
      case DType::kF16:
        put(i, float_to_f16(static_cast<float>(reference::round_to(dtype, values[i]))));
        break;
      case DType::kBF16:
        put(i, float_to_bf16(static_cast<float>(reference::round_to(dtype, values[i]))));
        break;
      case DType::kI32:
        put(i, static_cast<std::int32_t>(values[i]));
        break;
      case DType::kU8:
        put(i, static_cast<std::uint8_t>(values[i]));
        break;
    }
  }
}

inline double decode(DType dtype, const std::byte* in) {
  const auto get = [&](auto element) {
    std::memcpy(&element, in, sizeof(element));
    return element;
  };
  switch (dtype) {
    case DType::kF32:
      return static_cast<double>(get(float{}));
    case DType::kF16:
      return static_cast<double>(f16_to_float(get(std::uint16_t{})));
    case DType::kBF16:
      return static_cast<double>(bf16_to_float(get(std::uint16_t{})));
    case DType::kI32:
      return static_cast<double>(get(std::int32_t{}));
    case DType::kU8:
      return static_cast<double>(get(std::uint8_t{}));
  }
  return kNan;
}

// Byte i of a pattern whose 16- and 32-bit words, at even offsets, are NaN in f32, f16 and bf16
// alike, and which no kernel writes by chance.
inline std::byte poison_byte(std::size_t i) {
  return i % 2 == 1 ? std::byte{0xff} : static_cast<std::byte>(0x81 + i / 2 * 37 % 0x7e);
}

}  // namespace engine::test
