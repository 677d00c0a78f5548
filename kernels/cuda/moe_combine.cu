// moe_combine: out[t, d] = residual[t, d] + Σ_s weights[t, s] · y[t, s, d] in fp32, in the order of
// s, rounded once. out may be residual.
//
// Layout: out, residual (T, D), y (T, S, D), weights (T, S), strided. A thread has one element.
// Limit: bytes of y and residual read and out written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

struct CombineStrides {
  std::int64_t out, y, y_slot, weights, residual;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    moe_combine_kernel(T* out,                // (T, D)
                       const T* y,            // (T, S, D)
                       const float* weights,  // (T, S)
                       const T* residual,     // (T, D)
                       CombineStrides strides, int slots, std::int64_t width) {
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t t = blockIdx.x;
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (d >= width) return;
  float sum = to_f32(residual[t * strides.residual + d]);
  for (int s = 0; s < slots; ++s) {
    sum = fmaf(weights[t * strides.weights + s], to_f32(y[t * strides.y + s * strides.y_slot + d]),
               sum);
  }
  out[t * strides.out + d] = from_f32<T>(sum);
}

}  // namespace

void moe_combine(CudaContext& context, const MoeCombineCall& call) {
  const std::int64_t width = call.y.size(2);
  const CombineStrides strides{.out = call.out.stride(0),
                               .y = call.y.stride(0),
                               .y_slot = call.y.stride(1),
                               .weights = call.weights.stride(0),
                               .residual = call.residual.stride(0)};
  const dim3 grid(to_unsigned(call.y.size(0)), to_unsigned((width + kThreads - 1) / kThreads));
  dispatch_float(call.y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, moe_combine_kernel<T>, grid, kThreads, 0, call.out.as<T>(), call.y.as<T>(),
           call.weights.as<float>(), call.residual.as<T>(), strides,
           static_cast<int>(call.y.size(1)), width);
  });
}

}  // namespace engine::cuda
