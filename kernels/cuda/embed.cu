// embed: out[t, :] = table[ids[t], :], rounded to out's type; NaN where the id is out of range.
//
// Layout: out (T, D), table (V, D). A block copies one row. Limit: bytes of T rows read and
// written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

template <typename T, typename W>
__global__ void embed_kernel(T* out, std::int64_t out_stride,  // (T, D)
                             const W* table,                   // (V, D)
                             const int* ids,                   // (T)
                             int width, std::int64_t vocabulary) {
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t t = blockIdx.x;
  const int id = ids[t];
  const bool known = id >= 0 && id < vocabulary;
  const W* row = table + static_cast<std::int64_t>(known ? id : 0) * width;
  for (int d = static_cast<int>(threadIdx.x); d < width; d += static_cast<int>(blockDim.x)) {
    out[t * out_stride + d] = from_f32<T>(known ? to_f32(row[d]) : nanf(""));
  }
}

}  // namespace

void embed(CudaContext& context, const EmbedCall& call) {
  const DType stored = call.table.format == QuantFormat::kF32   ? DType::kF32
                       : call.table.format == QuantFormat::kF16 ? DType::kF16
                                                                : DType::kBF16;
  dispatch_float(call.out.dtype, [&](auto out_tag) {
    dispatch_float(stored, [&](auto table_tag) {
      using T = typename decltype(out_tag)::type;
      using W = typename decltype(table_tag)::type;
      launch(context, embed_kernel<T, W>, to_unsigned(call.out.size(0)), 256, 0, call.out.as<T>(),
             call.out.stride(0), static_cast<const W*>(call.table.data), call.ids.as<int>(),
             static_cast<int>(call.out.size(1)), call.table.rows);
    });
  });
}

}  // namespace engine::cuda
