// add: out = a + b in fp32, rounded once. out may be a or b.
//
// Layout: (T, D) strided. A thread has one element. Limit: bytes of a and b read and out written.
// No graph of a decoder asks for it in its hot path (residuals are fused), so it stays this simple.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(T* out, std::int64_t out_stride, const T* a, std::int64_t a_stride, const T* b,
               std::int64_t b_stride, std::int64_t width) {
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t t = blockIdx.y;
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (d >= width) return;
  out[t * out_stride + d] = from_f32<T>(to_f32(a[t * a_stride + d]) + to_f32(b[t * b_stride + d]));
}

}  // namespace

void add(CudaContext& context, const AddCall& call) {
  const std::int64_t width = call.a.size(1);
  dispatch_float(call.a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const dim3 grid(to_unsigned((width + kThreads - 1) / kThreads), to_unsigned(call.a.size(0)));
    launch(context, add_kernel<T>, grid, kThreads, 0, call.out.as<T>(), call.out.stride(0),
           call.a.as<T>(), call.a.stride(0), call.b.as<T>(), call.b.stride(0), width);
  });
}

}  // namespace engine::cuda
