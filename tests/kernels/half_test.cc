// The 16-bit types: every bit pattern, and rounding against an independent computation.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "quant/half.h"
#include "tests/support/inputs.h"

namespace engine::test {
namespace {

// The value of an IEEE-like pattern of 1 sign, `exponent_bits` and `mantissa_bits`, by definition.
double value_of(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? kNan : sign * kInfinity;
  const double significand = std::ldexp(mantissa, -mantissa_bits) + (exponent > 0 ? 1.0 : 0.0);
  return sign * std::ldexp(significand, std::max(exponent, 1) - bias);
}

bool same(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

TEST_CASE("every f16 and bf16 pattern decodes to its value and encodes to itself") {
  int wrong = 0;
  for (std::uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const float f16 = f16_to_float(bits), bf16 = bf16_to_float(bits);
    wrong += !same(static_cast<double>(f16), value_of(bits, 5, 10));
    wrong += !same(static_cast<double>(bf16), value_of(bits, 8, 7));
    const std::uint16_t f16_again = float_to_f16(f16), bf16_again = float_to_bf16(bf16);
    wrong += std::isnan(f16) ? !std::isnan(f16_to_float(f16_again)) : f16_again != bits;
    wrong += std::isnan(bf16) ? !std::isnan(bf16_to_float(bf16_again)) : bf16_again != bits;
    if (std::isnan(f16)) wrong += (f16_again ^ bits) >> 15;  // the sign stays
    if (std::isnan(bf16)) wrong += (bf16_again ^ bits) >> 15;
  }
  CHECK(wrong == 0);
}

// Compares with the exhaustive definition: the nearest of the two neighbours, ties to the even one.
int rounding_errors(float value) {
  const double exact = static_cast<double>(value);
  const double f16 = reference::round_to(DType::kF16, exact);
  const double bf16 = reference::round_to(DType::kBF16, exact);
  return !same(static_cast<double>(f16_to_float(float_to_f16(value))), f16) +
         !same(static_cast<double>(bf16_to_float(float_to_bf16(value))), bf16);
}

TEST_CASE("floats round to the nearest f16 and bf16, ties to even") {
  int wrong = 0;
  Random random(1);
  for (int i = 0; i < 2'000'000; ++i) {
    wrong += rounding_errors(std::bit_cast<float>(static_cast<std::uint32_t>(random.bits())));
  }
  // In the range of f16, where its rounding happens.
  for (int i = 0; i < 2'000'000; ++i) {
    const double magnitude = std::exp2(random.uniform(-27.0, 17.0));
    wrong += rounding_errors(static_cast<float>(random.unit() < 0.5 ? magnitude : -magnitude));
  }
  CHECK(wrong == 0);
}

// Every midpoint between neighbours, and the floats next to it.
template <float (*kDecode)(std::uint16_t)>
int midpoint_errors(std::uint16_t infinity) {
  int wrong = 0;
  for (std::uint16_t bits = 0; bits + 1 < infinity; ++bits) {
    const double low = static_cast<double>(kDecode(bits));
    const double high = static_cast<double>(kDecode(static_cast<std::uint16_t>(bits + 1)));
    const auto middle = static_cast<float>((low + high) / 2.0);
    for (const float value :
         {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e38f)}) {
      wrong += rounding_errors(value) + rounding_errors(-value);
    }
  }
  return wrong;
}

TEST_CASE("ties and their neighbours round right in all of f16 and bf16") {
  CHECK(midpoint_errors<f16_to_float>(0x7c00) == 0);
  CHECK(midpoint_errors<bf16_to_float>(0x7f80) == 0);
}

TEST_CASE("the oracle's rounding agrees with the bit patterns by definition") {
  // reference::round_to is what the tests above trust: each pattern is a fixed point, and between
  // two of them the nearer wins, the one with the even pattern at the middle.
  int wrong = 0;
  for (std::uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = value_of(bits, 5, 10), high = value_of(bits + 1, 5, 10);
    const double even = bits % 2 == 0 ? low : high;
    wrong += reference::round_to(DType::kF16, low) != low;
    wrong += reference::round_to(DType::kF16, 0.75 * low + 0.25 * high) != low;
    wrong += reference::round_to(DType::kF16, 0.25 * low + 0.75 * high) != high;
    wrong += reference::round_to(DType::kF16, 0.5 * low + 0.5 * high) != even;
  }
  for (std::uint16_t bits = 0; bits < 0x7f7f; ++bits) {
    const double low = value_of(bits, 8, 7), high = value_of(bits + 1, 8, 7);
    const double even = bits % 2 == 0 ? low : high;
    wrong += reference::round_to(DType::kBF16, low) != low;
    wrong += reference::round_to(DType::kBF16, 0.75 * low + 0.25 * high) != low;
    wrong += reference::round_to(DType::kBF16, 0.5 * low + 0.5 * high) != even;
  }
  CHECK(wrong == 0);
  CHECK(reference::round_to(DType::kF16, 65519.99) == 65504.0);
  CHECK(reference::round_to(DType::kF16, 65520.0) == kInfinity);
  CHECK(reference::round_to(DType::kBF16, -0x1.ffp127) == -kInfinity);
  Random random(2);
  for (int i = 0; i < 100000; ++i) {
    const double value = std::exp2(random.uniform(-150.0, 128.5)) * (random.unit() - 0.5);
    wrong +=
        reference::round_to(DType::kF32, value) != static_cast<double>(static_cast<float>(value));
  }
  CHECK(wrong == 0);
}

TEST_CASE("dtypes know their size, name and weight format") {
  const DType all[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI32, DType::kU8};
  const std::size_t sizes[] = {4, 2, 2, 4, 1};
  const char* names[] = {"f32", "f16", "bf16", "i32", "u8"};
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(dtype_size(all[i]) == sizes[i]);
    CHECK(dtype_name(all[i]) == names[i]);
    CHECK(is_float(all[i]) == (i < 3));
  }
  CHECK(plain_format(DType::kF32) == QuantFormat::kF32);
  CHECK(plain_format(DType::kF16) == QuantFormat::kF16);
  CHECK(plain_format(DType::kBF16) == QuantFormat::kBF16);
  CHECK_THROWS_AS(plain_format(DType::kI32), Error);
  CHECK(to_float(from_float<f16_t>(1.5f)) == 1.5f);
  CHECK(to_float(from_float<bf16_t>(-2.5f)) == -2.5f);
  CHECK(from_float<float>(0.1f) == 0.1f);
}

}  // namespace
}  // namespace engine::test
