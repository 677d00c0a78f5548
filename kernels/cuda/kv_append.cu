// kv_append: k_cache[g, position + t, :] = k[t, g, :], and v alike; rows at or past C are dropped.
//
// Layout: caches (G, C, Dh) strided, k and v (T, G, Dh) strided. blockIdx.x is the token, the
// blocks along y share its elements. Limit: bytes of k and v read and written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

struct AppendStrides {
  std::int64_t cache_head, cache_row, token, head;
};

// The copy is of bits, so the element's width is all that matters.
template <typename Bits>
__global__ void kv_append_kernel(Bits* k_cache, Bits* v_cache, const Bits* k, const Bits* v,
                                 AppendStrides ks, AppendStrides vs, const int* position,
                                 std::int64_t capacity, int kv_heads, int head_size) {
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t token = blockIdx.x, row = *position + token;
  if (row < 0 || row >= capacity) return;
  for (int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x); i < kv_heads * head_size;
       i += static_cast<int>(gridDim.y * blockDim.x)) {
    const int g = i / head_size, d = i % head_size;
    k_cache[g * ks.cache_head + row * ks.cache_row + d] = k[token * ks.token + g * ks.head + d];
    v_cache[g * vs.cache_head + row * vs.cache_row + d] = v[token * vs.token + g * vs.head + d];
  }
}

AppendStrides strides_of(const Tensor& cache, const Tensor& rows) {
  return {cache.stride(0), cache.stride(1), rows.stride(0), rows.stride(1)};
}

template <typename Bits>
void append(CudaContext& context, const KvAppendCall& call) {
  const dim3 grid(to_unsigned(call.k.size(0)),
                  blocks_of_row(context, call.k.size(0), call.k.size(1) * call.k.size(2)));
  launch(context, kv_append_kernel<Bits>, grid, 256, 0, call.k_cache.as<Bits>(),
         call.v_cache.as<Bits>(), call.k.as<Bits>(), call.v.as<Bits>(),
         strides_of(call.k_cache, call.k), strides_of(call.v_cache, call.v),
         call.position.as<int>(), call.k_cache.size(1), static_cast<int>(call.k.size(1)),
         static_cast<int>(call.k.size(2)));
}

}  // namespace

void kv_append(CudaContext& context, const KvAppendCall& call) {
  if (dtype_size(call.k.dtype) == 4) {
    append<std::uint32_t>(context, call);
  } else {
    append<std::uint16_t>(context, call);
  }
}

}  // namespace engine::cuda
