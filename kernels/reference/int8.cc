#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {
namespace {

// The rule's divisions are fp32. A quotient of floats, first rounded to double, then rounds to the
// same float: 53 bits are more than 2 · 24 + 2.
double divide_f32(double a, double b) { return round_to(DType::kF32, a / b); }

double round_half_even(double value) {
  const double below = std::floor(value), above_by = value - below;
  if (above_by != 0.5) return above_by < 0.5 ? below : below + 1.0;
  return std::fmod(below, 2.0) == 0.0 ? below : below + 1.0;
}

}  // namespace

Int8Matrix int8_quantise(View weights, std::int64_t columns) {
  const auto width = static_cast<std::size_t>(columns);
  ENGINE_REQUIRE(columns > 0 && weights.size() % width == 0, "int8_quantise: ", weights.size(),
                 " weights in rows of ", columns);
  Int8Matrix matrix;
  for (std::size_t row = 0; row < weights.size(); row += width) {
    const View values = weights.subspan(row, width);
    double largest = 0.0;
    for (const double w : values) largest = std::max(largest, std::fabs(w));
    const double step = std::max(divide_f32(largest, 127.5), std::ldexp(1.0, -23));
    const double scale = round_to(DType::kBF16, step);
    matrix.scale.push_back(scale);
    for (const double w : values) {
      const double q = std::clamp(round_half_even(divide_f32(w, scale)), -128.0, 127.0);
      matrix.q.push_back(static_cast<std::int8_t>(q));
      matrix.decoded.push_back(q * scale);
    }
  }
  return matrix;
}

}  // namespace engine::reference
