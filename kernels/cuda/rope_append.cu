// The end of attention_in for several tokens: rope of q and of k, and the append of k and v to the
// cache, in one pass over the joined projections. rope.cu has the formula, and every value is
// rounded where that and the product before it round it.
//
// Layout: joined (T, (H + 2 G) · Dh), rows `stride` apart: of T, or fp32 sums that are still to be
// scaled, by a scale a column, and rounded. blockIdx.x is the token; the blocks along y share its
// heads. A thread has eight elements of the first half of a head and those of the second half that
// they are turned with. Limit: bytes read and written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kPer = 8;

// Where things lie; strides in elements.
template <typename T>
struct Heads {
  T *q, *k, *v;
  std::int64_t q_token, q_head, k_head, k_row, v_head, v_row;
  const float* table;
  std::int64_t table_stride;
  const int* position;  // of token 0 of the step
  int first;            // tokens of the step before those of this call
  int table_rows, heads, kv_heads, head_size;
  std::int64_t capacity;
};

template <typename T>
__device__ void load_eight(const T* from, const std::uint16_t*, float (&value)[kPer]) {
  unpack<T>(load_vector(from), value);
}
template <typename T>
__device__ void load_eight(const float* from, const std::uint16_t* scales, float (&value)[kPer]) {
  const auto* four = reinterpret_cast<const float4*>(from);
  const float4 a = four[0], b = four[1];
  const float sum[kPer] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < kPer; ++i) value[i] = round_to<T>(sum[i] * scale_value(scales[i]));
}

template <typename T, typename In>
__global__ void __launch_bounds__(kThreads)
    rope_append_kernel(const Heads<T> p, const In* joined, std::int64_t stride,
                       const std::uint16_t* scales) {
  pdl_launch_dependents();
  pdl_wait();
  const int token = static_cast<int>(blockIdx.x), row = *p.position + p.first + token;
  const float* turn = p.table + max(0, min(row, p.table_rows - 1)) * p.table_stride;
  const int half = p.head_size / 2, vectors = half / kPer;
  const int items = (p.heads + 2 * p.kv_heads) * vectors;
  for (int item = static_cast<int>(blockIdx.y * kThreads + threadIdx.x); item < items;
       item += static_cast<int>(gridDim.y) * kThreads) {
    const int head = item / vectors, i = (item - head * vectors) * kPer;
    T* to;
    if (head < p.heads) {
      to = p.q + token * p.q_token + head * p.q_head;
    } else {
      if (row < 0 || row >= p.capacity) continue;
      const int g = head - p.heads;
      to = g < p.kv_heads ? p.k + g * p.k_head + row * p.k_row
                          : p.v + (g - p.kv_heads) * p.v_head + row * p.v_row;
    }
    const int column = head * p.head_size + i;
    const In* from = joined + token * stride + column;
    float low[kPer], high[kPer];
    load_eight<T>(from, scales + column, low);
    load_eight<T>(from + half, scales + column + half, high);
    if (head < p.heads + p.kv_heads) {
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const float a = low[j], b = high[j], cosine = turn[i + j], sine = turn[i + j + half];
        low[j] = a * cosine - b * sine;
        high[j] = b * cosine + a * sine;
      }
    }
    store_vector(to + i, pack<T>(low));
    store_vector(to + i + half, pack<T>(high));
  }
}

}  // namespace

bool rope_append_serves(const AttentionInCall& call) {
  return call.q.dtype != DType::kF32 && call.q.size(2) % (2 * kPer) == 0 &&
         is_vector_aligned(call.q) && is_vector_aligned(call.k_cache) &&
         is_vector_aligned(call.v_cache);
}

void rope_append(CudaContext& context, const AttentionInCall& call, const Tensor& joined,
                 std::int64_t first, const void* scales) {
  const std::int64_t tokens = joined.size(0);
  if (joined.numel() == 0) return;
  const Tensor q = call.q.slice(0, first, tokens);
  const auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Heads<T> heads{.q = q.as<T>(),
                         .k = call.k_cache.as<T>(),
                         .v = call.v_cache.as<T>(),
                         .q_token = q.stride(0),
                         .q_head = q.stride(1),
                         .k_head = call.k_cache.stride(0),
                         .k_row = call.k_cache.stride(1),
                         .v_head = call.v_cache.stride(0),
                         .v_row = call.v_cache.stride(1),
                         .table = call.rope_table.as<const float>(),
                         .table_stride = call.rope_table.stride(0),
                         .position = call.position.as<const int>(),
                         .first = static_cast<int>(first),
                         .table_rows = static_cast<int>(call.rope_table.size(0)),
                         .heads = static_cast<int>(q.size(1)),
                         .kv_heads = static_cast<int>(call.k_cache.size(0)),
                         .head_size = static_cast<int>(q.size(2)),
                         .capacity = call.k_cache.size(1)};
    const dim3 grid(to_unsigned(tokens),
                    blocks_of_row(context, tokens, joined.size(1) / (2 * kPer)));
    const auto* bits = static_cast<const std::uint16_t*>(scales);
    if (joined.dtype == DType::kF32) {
      launch(context, rope_append_kernel<T, float>, grid, kThreads, 0, heads,
             joined.as<const float>(), joined.stride(0), bits);
    } else {
      launch(context, rope_append_kernel<T, T>, grid, kThreads, 0, heads, joined.as<const T>(),
             joined.stride(0), bits);
    }
  };
  call.q.dtype == DType::kF16 ? run(TypeTag<__half>{}) : run(TypeTag<__nv_bfloat16>{});
}

}  // namespace engine::cuda
