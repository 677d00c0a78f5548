// Fixed-point numbers of three signed digits: q = d₂ · 65536 + d₁ · 256 + d₀, each in [−128, 127].
//
// A vector times a power of two that brings its largest magnitude just under 2²³ becomes such
// numbers; products of their digits by signed bytes have exact integer sums.
#pragma once

#include <math_constants.h>

#include <cstdint>

namespace engine::cuda {

// 2^exponent, for exponents of normal numbers.
__device__ inline float power_of_two(int exponent) {
  return __uint_as_float(static_cast<std::uint32_t>(exponent + 127) << 23);
}

// The power of two that brings the largest |x| just under 2²³, in two factors that are both normal;
// a factor of zero where all of x is zero or something is not finite.
struct DigitScale {
  float first = 1.0f, second = 0.0f;
  float unit = 0.0f, tiny = 1.0f;  // 1 ÷ second, NaN for what is not finite; 1 ÷ first

  __device__ explicit DigitScale(float largest) {
    if (!isfinite(largest)) unit = CUDART_NAN_F;
    if (largest == 0.0f || !isfinite(largest)) return;
    // A subnormal counts as 2^-126: it still gets more digits than it has bits.
    const int exponent = max(static_cast<int>(__float_as_uint(largest) >> 23), 1) - 127;
    int shift = 22 - exponent;
    if (shift > 100) {
      first = 0x1p64f;
      tiny = 0x1p-64f;
      shift -= 64;
    }
    if (largest * first * power_of_two(shift) > 8355711.0f) --shift;
    second = power_of_two(shift);
    unit = power_of_two(-shift);
  }
};

// q, the integer nearest to `scaled`, as its digits: byte i of the word is dᵢ.
__device__ inline std::uint32_t digit_word(float scaled) {
  // The bytes of q + 0x808080 are the digits plus 128 each.
  return static_cast<std::uint32_t>(__float2int_rn(scaled) + 0x808080) ^ 0x808080u;
}

}  // namespace engine::cuda
