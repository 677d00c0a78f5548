// Floats as unsigned integers in the same order.
#pragma once

#include <cstdint>

namespace engine::cuda {

// −0 counts as +0. No number's key is 0 or all ones.
__device__ inline std::uint32_t order_key(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float from_order_key(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

}  // namespace engine::cuda
