#include <cmath>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

double round_to(DType dtype, double value) {
  ENGINE_REQUIRE(is_float(dtype), "round_to: ", dtype);
  if (!std::isfinite(value) || value == 0.0) return value;
  const int digits = dtype == DType::kF32 ? 24 : dtype == DType::kF16 ? 11 : 8;
  const int least_exponent = dtype == DType::kF16 ? -14 : -126;  // of a normal number
  const int greatest_exponent = dtype == DType::kF16 ? 15 : 127;
  const int exponent = std::max(std::ilogb(value), least_exponent);
  // The spacing of representable numbers around `value`; nearbyint rounds ties to even.
  const int spacing = exponent - (digits - 1);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -spacing)), spacing);
  if (std::fabs(rounded) >= std::ldexp(1.0, greatest_exponent + 1)) {
    return std::copysign(std::numeric_limits<double>::infinity(), value);
  }
  return rounded;
}

}  // namespace engine::reference
