// gelu: out = ½ x (1 + tanh(√(2 ÷ π) (x + 0.044715 x³))), in fp32, rounded once.
//
// Layout: (T, D) strided. A thread has one 16-byte vector, or one element where rows are not
// aligned. Limit: bytes of x read and out written.
#include "kernels/cuda/device/gelu.cuh"

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads) gelu_kernel(T* out, std::int64_t out_stride, const T* x,
                                                        std::int64_t x_stride, std::int64_t width) {
  constexpr int kPer = kVector ? kPerVector<T> : 1;
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t t = blockIdx.y;
  const std::int64_t d = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPer;
  if (d >= width) return;
  if constexpr (kVector) {
    float value[kPer];
    unpack<T>(load_vector(x + t * x_stride + d), value);
#pragma unroll
    for (int i = 0; i < kPer; ++i) value[i] = gelu_tanh(value[i]);
    store_vector(out + t * out_stride + d, pack<T>(value));
  } else {
    out[t * out_stride + d] = from_f32<T>(gelu_tanh(to_f32(x[t * x_stride + d])));
  }
}

}  // namespace

void gelu(CudaContext& context, const GeluCall& call) {
  const std::int64_t tokens = call.x.size(0), width = call.x.size(1);
  const bool vectors = is_vector_aligned(call.x) && is_vector_aligned(call.out) &&
                       width * static_cast<std::int64_t>(dtype_size(call.x.dtype)) % 16 == 0;
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const std::int64_t each = kThreads * (vectors ? kPerVector<T> : 1);
    const dim3 grid(to_unsigned((width + each - 1) / each), to_unsigned(tokens));
    launch(context, vectors ? gelu_kernel<T, true> : gelu_kernel<T, false>, grid, kThreads, 0,
           call.out.as<T>(), call.out.stride(0), call.x.as<T>(), call.x.stride(0), width);
  });
}

}  // namespace engine::cuda
