// 2^x by the special function unit: within 2 units in the last place, subnormal results are 0,
// exp2(−∞) = 0, NaN stays NaN.
#pragma once

namespace engine::cuda {

__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace engine::cuda
