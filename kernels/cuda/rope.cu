// rope: rotary embedding in "rotate half" pairs (i, i + Dh/2), in fp32; ops.h has the formula.
//
// Layout: x and out (T, heads, Dh) strided, table (P, Dh) f32. blockIdx.x is the token, the blocks
// along y share its pairs. Limit: bytes of x read and out written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

template <typename T>
__global__ void rope_kernel(T* out, std::int64_t out_token, std::int64_t out_head, const T* x,
                            std::int64_t x_token, std::int64_t x_head, const float* table,
                            std::int64_t table_stride, int table_rows, const int* position,
                            int heads, int half) {
  pdl_launch_dependents();
  pdl_wait();
  const int token = static_cast<int>(blockIdx.x);
  const int at = max(0, min(*position + token, table_rows - 1));
  const float* turn = table + at * table_stride;
  const T* from = x + token * x_token;
  T* to = out + token * out_token;
  for (int pair = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x); pair < heads * half;
       pair += static_cast<int>(gridDim.y * blockDim.x)) {
    const int head = pair / half, i = pair % half;
    const float cosine = turn[i], sine = turn[i + half];
    const float low = to_f32(from[head * x_head + i]),
                high = to_f32(from[head * x_head + i + half]);
    to[head * out_head + i] = from_f32<T>(low * cosine - high * sine);
    to[head * out_head + i + half] = from_f32<T>(high * cosine + low * sine);
  }
}

}  // namespace

void rope(CudaContext& context, const RopeCall& call) {
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const dim3 grid(to_unsigned(call.x.size(0)),
                    blocks_of_row(context, call.x.size(0), call.x.size(1) * call.x.size(2) / 2));
    launch(context, rope_kernel<T>, grid, 256, 0, call.out.as<T>(), call.out.stride(0),
           call.out.stride(1), call.x.as<T>(), call.x.stride(0), call.x.stride(1),
           call.table.as<float>(), call.table.stride(0), static_cast<int>(call.table.size(0)),
           call.position.as<int>(), static_cast<int>(call.x.size(1)),
           static_cast<int>(call.x.size(2) / 2));
  });
}

}  // namespace engine::cuda
