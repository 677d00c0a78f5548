// attention_in for one token: norm, q/k/v, RoPE and the cache append in one kernel.
//
// Limit: the bytes of the joined q/k/v weight. A unit of the GEMV is a RoPE pair, so that the block
// which sums both rows turns them too.
#include "kernels/cuda/normed_gemv.cuh"

namespace engine::cuda {
namespace {

// A unit is a RoPE pair: rows i and i + Dh/2 of one head of q, k or v.
template <typename T, bool kVector>
struct QkvRows : NormedRows<T, kVector> {
  int heads, kv_heads, half;
  T* q;                  // (H, Dh)
  T *k_cache, *v_cache;  // (G, C, Dh)
  const float* table;    // (P, Dh)
  const int* position;   // (1)
  std::int64_t q_stride, k_head_stride, k_row_stride, v_head_stride, v_row_stride, table_stride;
  int capacity, table_rows;

  __device__ int weight_row(int unit, int i) const {
    return unit / half * 2 * half + unit % half + i * half;
  }
  __device__ void finish(int first_unit, int rows, const float* sums) const {
    const int at = *position;
    const float* turn = table + max(0, min(at, table_rows - 1)) * table_stride;
    for (int u = static_cast<int>(threadIdx.x); u < rows / 2; u += kGemvThreads) {
      const int head = (first_unit + u) / half, i = (first_unit + u) % half;
      float low = round_to<T>(sums[2 * u]), high = round_to<T>(sums[2 * u + 1]);
      T* to;
      if (head < heads + kv_heads) {
        const float cosine = turn[i], sine = turn[i + half], x0 = low, x1 = high;
        low = x0 * cosine - x1 * sine;
        high = x1 * cosine + x0 * sine;
      }
      if (head < heads) {
        to = q + head * q_stride;
      } else {
        if (at < 0 || at >= capacity) continue;  // rows past the capacity are not written
        to = head < heads + kv_heads
                 ? k_cache + (head - heads) * k_head_stride + at * k_row_stride
                 : v_cache + (head - heads - kv_heads) * v_head_stride + at * v_row_stride;
      }
      to[i] = from_f32<T>(low);
      to[i + half] = from_f32<T>(high);
    }
  }
};

}  // namespace

void attention_in_gemv(CudaContext& context, const AttentionInCall& call) {
  dispatch_rows(call.x, call.norm, call.qkv, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    QkvRows<T, vector.value> rows;
    static_cast<NormedRows<T, vector.value>&>(rows) =
        normed_rows<T, vector.value>(call.qkv, call.x, call.norm, call.eps);
    rows.heads = static_cast<int>(call.q.size(1));
    rows.kv_heads = static_cast<int>(call.k_cache.size(0));
    rows.half = static_cast<int>(call.q.size(2) / 2);
    rows.q = call.q.as<T>();
    rows.k_cache = call.k_cache.as<T>();
    rows.v_cache = call.v_cache.as<T>();
    rows.table = call.rope_table.as<float>();
    rows.position = call.position.as<int>();
    rows.q_stride = call.q.stride(1);
    rows.k_head_stride = call.k_cache.stride(0);
    rows.k_row_stride = call.k_cache.stride(1);
    rows.v_head_stride = call.v_cache.stride(0);
    rows.v_row_stride = call.v_cache.stride(1);
    rows.table_stride = call.rope_table.stride(0);
    rows.capacity = static_cast<int>(call.k_cache.size(1));
    rows.table_rows = static_cast<int>(call.rope_table.size(0));
    launch_rows<T, vector.value>(context, rows, call.x.dtype);
  });
}

}  // namespace engine::cuda
