#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {
namespace {

// 2^exponent of a normal double, by its bits: tests round very many values, and ldexp took a third
// of their time.
double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

}  // namespace

double round_to(DType dtype, double value) {
  ENGINE_REQUIRE(is_float(dtype), "round_to: ", dtype);
  if (!std::isfinite(value) || value == 0.0) return value;
  const int digits = dtype == DType::kF32 ? 24 : dtype == DType::kF16 ? 11 : 8;
  const int least_exponent = dtype == DType::kF16 ? -14 : -126;  // of a normal number
  const int greatest_exponent = dtype == DType::kF16 ? 15 : 127;
  const int exponent = std::max(std::ilogb(value), least_exponent);
  // The spacing of representable numbers around `value`, from 2^-149 to 2^1016; nearbyint rounds
  // ties to even.
  const int spacing = exponent - (digits - 1);
  const double rounded = std::nearbyint(value * power_of_two(-spacing)) * power_of_two(spacing);
  if (std::fabs(rounded) >= power_of_two(greatest_exponent + 1)) {
    return std::copysign(std::numeric_limits<double>::infinity(), value);
  }
  return rounded;
}

}  // namespace engine::reference
