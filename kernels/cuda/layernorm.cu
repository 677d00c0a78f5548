// layernorm: out = (x − mean(x)) ÷ √(var(x) + eps) · weight + bias over each row, in fp32, rounded
// once.
//
// Layout: x and out (T, D) strided, weight and bias (D). Limit: bytes of x read and out written.
// layernorm_rows: a block takes every gridDim-th row; a thread has two 16-byte vectors of it, and
// their weights and biases, in registers for good, so that a row is read once: sum, centred squares
// and result come from registers. The next row is asked for before this one is reduced. Blocks are
// as small as a row allows, 1024 threads a multiprocessor together. layernorm_plain serves what
// that can't: a block per row, three passes over it.
#include <algorithm>

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/layernorm_rows.cuh"

namespace engine::cuda {
namespace {

constexpr int kPlainThreads = 256;

// The sum over the block with a single barrier. Calls take turns with two arrays `partial`, so that
// one is not overwritten while a slow warp still reads it.
__device__ inline float block_sum_once(float value, float* partial) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warps = static_cast<int>(blockDim.x) / 32;
  value = warp_sum(value);
  if (lane == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : 0.0f);
}

template <typename T>
__global__ void __launch_bounds__(kLayerNormThreads, 1)
    layernorm_rows_kernel(const LayerNormRows p) {
  constexpr int kPer = kPerVector<T>, kVectors = kLayerNormVectors;
  __shared__ float partial[2][32];
  int at[kVectors];
  bool mine[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    at[v] = static_cast<int>(threadIdx.x + v * blockDim.x) * kPer;
    mine[v] = at[v] < p.width;
  }
  uint4 raw[kVectors];
  const auto fetch = [&](int row) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const T* from = static_cast<const T*>(p.x) + row * p.x_stride + at[v];
      raw[v] = mine[v] && row < p.tokens ? load_streaming(from) : uint4{};
    }
  };
  pdl_launch_dependents();
  float weight[kVectors][kPer] = {}, bias[kVectors][kPer] = {};
  pdl_wait();
  fetch(static_cast<int>(blockIdx.x));
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (!mine[v]) continue;
    load_parameters<T>(p.weight, p.f32_weights, at[v], weight[v]);
    load_parameters<T>(p.bias, p.f32_weights, at[v], bias[v]);
  }
  const float share = 1.0f / static_cast<float>(p.width);
  for (int row = static_cast<int>(blockIdx.x); row < p.tokens; row += static_cast<int>(gridDim.x)) {
    uint4 now[kVectors];
    float total = 0.0f, squares = 0.0f, value[kPer];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      now[v] = raw[v];
      unpack<T>(now[v], value);
#pragma unroll
      for (int i = 0; i < kPer; ++i) total += value[i];
    }
    fetch(row + static_cast<int>(gridDim.x));
    const float mean = block_sum_once(total, partial[0]) * share;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      unpack<T>(now[v], value);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const float centred = value[i] - mean;
        if (mine[v]) squares = fmaf(centred, centred, squares);
      }
    }
    const float scale = 1.0f / sqrtf(block_sum_once(squares, partial[1]) * share + p.eps);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (!mine[v]) continue;
      unpack<T>(now[v], value);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        value[i] = fmaf((value[i] - mean) * scale, weight[v][i], bias[v][i]);
      }
      store_vector(static_cast<T*>(p.out) + row * p.out_stride + at[v], pack<T>(value));
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kPlainThreads) layernorm_plain_kernel(const LayerNormRows p) {
  __shared__ float partial[32];
  pdl_launch_dependents();
  pdl_wait();
  const T* x = static_cast<const T*>(p.x) + blockIdx.x * p.x_stride;
  T* out = static_cast<T*>(p.out) + blockIdx.x * p.out_stride;
  const int first = static_cast<int>(threadIdx.x);
  float total = 0.0f, squares = 0.0f;
  for (int d = first; d < p.width; d += kPlainThreads) total += to_f32(x[d]);
  const float mean = block_reduce(total, partial, 0.0f, SumOp{}) / static_cast<float>(p.width);
  for (int d = first; d < p.width; d += kPlainThreads) {
    const float centred = to_f32(x[d]) - mean;
    squares = fmaf(centred, centred, squares);
  }
  squares = block_reduce(squares, partial, 0.0f, SumOp{});
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.width) + p.eps);
  const auto parameter = [&](const void* from, int d) {
    return p.f32_weights ? static_cast<const float*>(from)[d]
                         : to_f32(static_cast<const T*>(from)[d]);
  };
  // out may be x: a thread writes only where it alone reads.
  for (int d = first; d < p.width; d += kPlainThreads) {
    const float normed = (to_f32(x[d]) - mean) * scale;
    out[d] = from_f32<T>(fmaf(normed, parameter(p.weight, d), parameter(p.bias, d)));
  }
}

}  // namespace

void layernorm(CudaContext& context, const LayerNormCall& call) {
  const LayerNormRows p = layernorm_rows(call);
  const bool aligned = is_vector_aligned(call.x) && is_vector_aligned(call.out) &&
                       is_vector_aligned(call.weight) && is_vector_aligned(call.bias);
  const LayerNormPlan plan =
      choose_layernorm(context.arch(), call.x.size(0), call.x.size(1), call.x.dtype, aligned);
  if (plan.kernel == LayerNormKernel::kSm90) return sm90_layernorm(context, call, plan);
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (plan.kernel == LayerNormKernel::kRegisters) {
      launch(context, layernorm_rows_kernel<T>, to_unsigned(plan.blocks), to_unsigned(plan.threads),
             0, p);
    } else {
      launch(context, layernorm_plain_kernel<T>, to_unsigned(p.tokens), kPlainThreads, 0, p);
    }
  });
}

}  // namespace engine::cuda
