// rmsnorm: out = round(round(x ÷ √(mean(x²) + eps)) · weight), mean and root in fp32.
//
// Layout: x and out (T, D). A block has one row: a pass for the sum of squares, one for the result
// (the row comes from L1 then). Limit: bytes of x read and out written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    rmsnorm_kernel(T* out, std::int64_t out_stride,    // (T, D)
                   const T* x, std::int64_t x_stride,  // (T, D)
                   const T* weight,                    // (D)
                   int width, float eps) {
  constexpr int kPer = kVector ? kPerVector<T> : 1;
  __shared__ float partial[32];
  pdl_launch_dependents();
  pdl_wait();
  const T* row = x + blockIdx.x * x_stride;
  T* out_row = out + blockIdx.x * out_stride;
  float value[kPerVector<T>], scale_by[kPerVector<T>];

  float squares = 0.0f;
  for (int d = static_cast<int>(threadIdx.x) * kPer; d < width; d += kThreads * kPer) {
    unpack<T>(kVector ? load_vector(row + d) : load_elements(row + d, 1), value);
#pragma unroll
    for (int i = 0; i < kPer; ++i) squares += value[i] * value[i];
  }
  squares = block_reduce(squares, partial, 0.0f, SumOp{});
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(width) + eps);

  // out may be x: a thread writes only where it alone reads.
  for (int d = static_cast<int>(threadIdx.x) * kPer; d < width; d += kThreads * kPer) {
    unpack<T>(kVector ? load_vector(row + d) : load_elements(row + d, 1), value);
    unpack<T>(kVector ? load_vector(weight + d) : load_elements(weight + d, 1), scale_by);
#pragma unroll
    for (int i = 0; i < kPer; ++i) value[i] = round_to<T>(value[i] * scale) * scale_by[i];
    if constexpr (kVector) {
      store_vector(out_row + d, pack<T>(value));
    } else {
      out_row[d] = from_f32<T>(value[0]);
    }
  }
}

}  // namespace

void rmsnorm(CudaContext& context, const RmsNormCall& call) {
  const bool vectors =
      is_vector_aligned(call.x) && is_vector_aligned(call.out) && is_vector_aligned(call.weight) &&
      call.x.size(1) * static_cast<std::int64_t>(dtype_size(call.x.dtype)) % 16 == 0;
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, vectors ? rmsnorm_kernel<T, true> : rmsnorm_kernel<T, false>,
           to_unsigned(call.x.size(0)), kThreads, 0, call.out.as<T>(), call.out.stride(0),
           call.x.as<T>(), call.x.stride(0), call.weight.as<T>(), static_cast<int>(call.x.size(1)),
           call.eps);
  });
}

}  // namespace engine::cuda
