// quantise_int8: q = clamp(round-half-even(w ÷ scale), −128, 127), scale = bf16(max(max|w| ÷ 127.5,
// 2⁻²³)): quant/int8.h on the device, with the same bits. convert_elements: one type to another.
//
// Layout: source (N, K) row-major, q (N, K) row-major, scales (N). A block quantises a row: one
// pass for the largest magnitude, one that divides (IEEE division, as on the host), the second
// mostly from cache. Limit: bytes of the source read and of q written.
#include <math_constants.h>

#include <algorithm>

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ __launch_bounds__(kThreads) void quantise_int8_kernel(const T* source,        // (N, K)
                                                                 std::int64_t columns,   // K
                                                                 std::int8_t* q,         // (N, K)
                                                                 std::uint16_t* scales,  // (N)
                                                                 std::uint32_t* not_finite)  // (1)
{
  __shared__ float partial[32];
  pdl_wait();
  const std::int64_t row = blockIdx.x;
  source += row * columns;
  q += row * columns;
  // The largest magnitude; infinity stands for NaN too, which max would lose.
  float largest = 0.0f;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    const float magnitude = fabsf(to_f32(source[k]));
    largest = fmaxf(largest, isfinite(magnitude) ? magnitude : CUDART_INF_F);
  }
  largest = block_reduce(largest, partial, 0.0f, MaxOp{});
  if (isinf(largest)) {
    if (threadIdx.x == 0) *not_finite = 1;
    return;
  }
  const __nv_bfloat16 stored = __float2bfloat16_rn(fmaxf(__fdiv_rn(largest, 127.5f), 0x1p-23f));
  const float scale = __bfloat162float(stored);
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    const float rounded = rintf(__fdiv_rn(to_f32(source[k]), scale));
    q[k] = static_cast<std::int8_t>(fminf(fmaxf(rounded, -128.0f), 127.0f));
  }
  if (threadIdx.x == 0) scales[row] = __bfloat16_as_ushort(stored);
}

template <typename To, typename From>
__global__ void convert_kernel(const From* source, std::int64_t count, To* destination) {
  pdl_wait();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       at < count; at += stride) {
    destination[at] = from_f32<To>(to_f32(source[at]));
  }
}

}  // namespace

void quantise_int8(CudaContext& context, const Tensor& source, std::int8_t* q,
                   std::uint16_t* scales, std::uint32_t* not_finite) {
  context.begin_op("quantise_int8");
  if (source.numel() == 0) return;
  dispatch_float(source.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, quantise_int8_kernel<T>, to_unsigned(source.size(0)), kThreads, 0,
           source.as<const T>(), source.size(1), q, scales, not_finite);
  });
}

void convert_elements(CudaContext& context, const Tensor& source, DType dtype, void* destination) {
  context.begin_op("the conversion of a weight");
  if (source.numel() == 0) return;
  const std::int64_t blocks = std::clamp<std::int64_t>((source.numel() + kThreads - 1) / kThreads,
                                                       1, context.arch().sms * 8);
  dispatch_float(source.dtype, [&](auto from_tag) {
    dispatch_float(dtype, [&](auto to_tag) {
      using From = typename decltype(from_tag)::type;
      using To = typename decltype(to_tag)::type;
      launch(context, convert_kernel<To, From>, to_unsigned(blocks), kThreads, 0,
             source.as<const From>(), source.numel(), static_cast<To*>(destination));
    });
  });
}

}  // namespace engine::cuda
