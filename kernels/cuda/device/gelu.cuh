// GELU by its tanh approximation, as ops.h defines it.
#pragma once

namespace engine::cuda {

// ½ x (1 + tanh z) = x ÷ (1 + exp(−2 z)) with z = √(2 ÷ π) (x + 0.044715 x³).
__device__ inline float gelu_tanh(float x) {
  const float cubic = fmaf(x * x * x, 0.044715f, x);
  return x / (1.0f + expf(-1.5957691216057308f * cubic));
}

}  // namespace engine::cuda
