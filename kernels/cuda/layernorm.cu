// layernorm: out = (x − mean(x)) ÷ √(var(x) + eps) · weight + bias over each row, in fp32, rounded
// once.
//
// Layout: x and out (T, D) strided, weight and bias (D). Limit: bytes of x read and out written.
// layernorm_rows: one block a multiprocessor, cut into groups of threads; a group takes a row at a
// time, a thread four 16-byte vectors of it, in registers, so that a row is read once: sum, centred
// squares and result come from registers. The group's next row is asked for before this one is
// reduced, and while one group waits at its barrier the others move. Weight and bias are in shared
// memory as fp32, once for all. layernorm_plain serves what that can't: a block per row, three
// passes over it.
#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kPlainThreads = 256;

struct LayerNormRows {
  void* out;      // (T, D)
  const void* x;  // (T, D)
  std::int64_t out_stride, x_stride;
  const void *weight, *bias;  // (D)
  bool f32_weights;
  int tokens, width;
  float eps;
};

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

// The sum over the threads of a group, by number, with a single barrier. Calls take turns with two
// arrays `partial`, so that one is not overwritten while a slow warp still reads it.
__device__ inline float group_sum(float value, float* partial, int group, int row_threads) {
  value = warp_sum(value);
  if (row_threads == 32) return value;
  const int lane = static_cast<int>(threadIdx.x) % 32, warps = row_threads / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, first = group * warps;
  if (lane == 0) partial[warp] = value;
  named_barrier_sync(group + 1, row_threads);
  return warp_sum(lane < warps ? partial[first + lane] : 0.0f);
}

template <typename T>
__global__ void __launch_bounds__(kLayerNormThreads, 1)
    layernorm_rows_kernel(const LayerNormRows p, int row_threads) {
  constexpr int kPer = kPerVector<T>, kVectors = kLayerNormVectors, kFours = kPer / 4;
  extern __shared__ float4 parameters[];  // (2, kFours, vectors of a row): weight, bias
  __shared__ float partial[2][32];
  const int group = static_cast<int>(threadIdx.x) / row_threads;
  const int place = static_cast<int>(threadIdx.x) % row_threads, vectors = p.width / kPer;
  const int groups = static_cast<int>(blockDim.x) / row_threads;
  uint4 raw[kVectors];
  const auto fetch = [&](int row) {
    const T* from = static_cast<const T*>(p.x) + row * p.x_stride;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = place + v * row_threads;
      raw[v] = at < vectors && row < p.tokens ? load_streaming(from + at * kPer) : uint4{};
    }
  };
  pdl_launch_dependents();
  pdl_wait();
  const int stride = static_cast<int>(gridDim.x) * groups;
  const int first = group * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  fetch(first);
  float value[kPer];
  for (int i = static_cast<int>(threadIdx.x); i < 2 * vectors; i += static_cast<int>(blockDim.x)) {
    const int which = i / vectors, vector = i % vectors;
    load_parameters<T>(which == 0 ? p.weight : p.bias, p.f32_weights, vector * kPer, value);
#pragma unroll
    for (int j = 0; j < kFours; ++j) {
      parameters[(which * kFours + j) * vectors + vector] =
          make_float4(value[4 * j], value[4 * j + 1], value[4 * j + 2], value[4 * j + 3]);
    }
  }
  __syncthreads();  // the parameters are complete
  const float share = 1.0f / static_cast<float>(p.width);
  for (int row = first; row < p.tokens; row += stride) {
    uint4 now[kVectors];
    float total = 0.0f, squares = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      now[v] = raw[v];
      unpack<T>(now[v], value);
#pragma unroll
      for (int i = 0; i < kPer; ++i) total += value[i];
    }
    fetch(row + stride);
    const float mean = group_sum(total, partial[0], group, row_threads) * share;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (place + v * row_threads >= vectors) continue;
      unpack<T>(now[v], value);
#pragma unroll
      for (int i = 0; i < kPer; ++i) squares = fmaf(value[i] - mean, value[i] - mean, squares);
    }
    squares = group_sum(squares, partial[1], group, row_threads);
    const float scale = 1.0f / sqrtf(squares * share + p.eps);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = place + v * row_threads;
      if (at >= vectors) continue;
      unpack<T>(now[v], value);
#pragma unroll
      for (int j = 0; j < kFours; ++j) {
        const float4 w = parameters[j * vectors + at];
        const float4 b = parameters[(kFours + j) * vectors + at];
        value[4 * j] = fmaf((value[4 * j] - mean) * scale, w.x, b.x);
        value[4 * j + 1] = fmaf((value[4 * j + 1] - mean) * scale, w.y, b.y);
        value[4 * j + 2] = fmaf((value[4 * j + 2] - mean) * scale, w.z, b.z);
        value[4 * j + 3] = fmaf((value[4 * j + 3] - mean) * scale, w.w, b.w);
      }
      store_vector(static_cast<T*>(p.out) + row * p.out_stride + at * kPer, pack<T>(value));
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
  const LayerNormRows p{.out = call.out.data,
                        .x = call.x.data,
                        .out_stride = call.out.stride(0),
                        .x_stride = call.x.stride(0),
                        .weight = call.weight.data,
                        .bias = call.bias.data,
                        .f32_weights = call.weight.dtype == DType::kF32,
                        .tokens = static_cast<int>(call.x.size(0)),
                        .width = static_cast<int>(call.x.size(1)),
                        .eps = call.eps};
  const bool aligned = is_vector_aligned(call.x) && is_vector_aligned(call.out) &&
                       is_vector_aligned(call.weight) && is_vector_aligned(call.bias);
  const LayerNormPlan plan =
      choose_layernorm(context.arch(), call.x.size(0), call.x.size(1), call.x.dtype, aligned);
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (plan.in_registers) {
      launch(context, layernorm_rows_kernel<T>, to_unsigned(plan.blocks), to_unsigned(plan.threads),
             plan.shared_bytes, p, plan.row_threads);
    } else {
      launch(context, layernorm_plain_kernel<T>, to_unsigned(p.tokens), kPlainThreads, 0, p);
    }
  });
}

}  // namespace engine::cuda
