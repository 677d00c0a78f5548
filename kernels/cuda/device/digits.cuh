// Fixed-point numbers of three signed digits: q = d₂ · 65536 + d₁ · 256 + d₀, each in [−128, 127].
//
// A vector times a power of two that brings its largest magnitude just under 2²² becomes such
// numbers; products of their digits by signed bytes have exact integer sums.
#pragma once

#include <math_constants.h>

#include <cstdint>

namespace engine::cuda {

// 2^exponent, for exponents of normal numbers.
__device__ inline float power_of_two(int exponent) {
  return __uint_as_float(static_cast<std::uint32_t>(exponent + 127) << 23);
}

// The power of two that brings the largest |x| just under 2²², in two factors that are both normal;
// a factor of zero where all of x is zero or something is not finite.
struct DigitScale {
  float first = 1.0f, second = 0.0f;
  float unit = 0.0f, tiny = 1.0f;  // 1 ÷ second, NaN for what is not finite; 1 ÷ first

  __device__ explicit DigitScale(float largest) {
    const int biased = static_cast<int>(__float_as_uint(largest) >> 23);
    if (biased == 255) unit = CUDART_NAN_F;
    if (largest == 0.0f || biased == 255) return;
    // A subnormal counts as 2^-126: it still gets more digits than it has bits.
    int shift = 21 + 127 - max(biased, 1);
    if (shift > 100) {
      first = 0x1p64f;
      tiny = 0x1p-64f;
      shift -= 64;
    }
    second = power_of_two(shift);
    unit = power_of_two(-shift);
  }

  // Times the first factor.
  template <int kCount>
  __device__ void begin(float (&value)[kCount]) const {
    if (first == 1.0f) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] *= first;
  }
};

// q, the integer nearest to `scaled` (of at most 2²² in magnitude), as its digits: byte i of the
// word is dᵢ. 1.5 · 2²³ more, and the float's last bits are q; the bytes of q + 0x808080 are the
// digits plus 128 each.
__device__ inline std::uint32_t digit_word(float scaled) {
  return (__float_as_uint(scaled + 0x1.8p23f) + (0x808080u - 0x4b400000u)) ^ 0x808080u;
}

}  // namespace engine::cuda
