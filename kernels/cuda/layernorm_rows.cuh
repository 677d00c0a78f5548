// What the kernels of layernorm share: the operands as they get them, and the loads of a thread's
// weights and biases.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/vec.cuh"
#include "kernels/ops.h"

namespace engine::cuda {

struct LayerNormRows {
  void* out;      // (T, D)
  const void* x;  // (T, D)
  std::int64_t out_stride, x_stride;
  const void *weight, *bias;  // (D)
  bool f32_weights;
  int tokens, width;
  float eps;
};

inline LayerNormRows layernorm_rows(const LayerNormCall& call) {
  return {.out = call.out.data,
          .x = call.x.data,
          .out_stride = call.out.stride(0),
          .x_stride = call.x.stride(0),
          .weight = call.weight.data,
          .bias = call.bias.data,
          .f32_weights = call.weight.dtype == DType::kF32,
          .tokens = static_cast<int>(call.x.size(0)),
          .width = static_cast<int>(call.x.size(1)),
          .eps = call.eps};
}

// Parameters d, d + 1, … of a norm, f32 or of type T: one vector's worth.
template <typename T>
__device__ void load_parameters(const void* from, bool f32, int d, float (&value)[kPerVector<T>]) {
  if (!f32) {
    unpack<T>(load_vector(static_cast<const T*>(from) + d), value);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerVector<T>; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(from) + d + i);
    value[i] = four.x, value[i + 1] = four.y, value[i + 2] = four.z, value[i + 3] = four.w;
  }
}

}  // namespace engine::cuda
