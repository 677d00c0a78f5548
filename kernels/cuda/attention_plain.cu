// attention on CUDA cores: flash attention for any type, head size up to 512, stride and alignment.
//
//   out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[g, j]) v[g, j]
// Layout: q and out (T, H, Dh), caches (G, C, Dh), all strided. Who computes what: a block of 8
// warps has 8 · kRows queries of one head, a warp kRows of them; keys pass in tiles of 32 through
// shared memory, first K, then V in its place. A lane scores one key for each of its warp's
// queries, and then owns every 32nd element of their results (kParts of them) while the weights
// come by shuffle. Online softmax in base 2. Limit: fp32 multiply-adds.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kTile = 32;
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <typename T>
struct PlainArguments {
  T* out;          // (T, H, Dh)
  const T* q;      // (T, H, Dh)
  const T *k, *v;  // (G, C, Dh)
  const int* position;
  float* lse;  // (H, T) or null
  std::int64_t out_token, out_head, q_token, q_head, k_head, k_row, v_head, v_row, lse_head;
  int head_size, group, tokens, bound, window;
  float scale_log2;
  bool causal;
};

// Rows [first, first + kTile) of (·, head_size) as fp32, rows of head_size + 1 (so that lanes
// reading down a column meet different banks), zeros outside [begin, end).
template <typename T>
__device__ void load_tile(float* tile, const T* source, std::int64_t stride, int first, int begin,
                          int end, int head_size) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * head_size; i += kThreads) {
    const int r = i / head_size, d = i % head_size;
    tile[r * (head_size + 1) + d] =
        first + r >= begin && first + r < end
            ? to_f32(source[static_cast<std::int64_t>(first + r) * stride + d])
            : 0.0f;
  }
}

template <typename T, int kParts, int kRows>
__global__ void __launch_bounds__(kThreads) attention_plain_kernel(const PlainArguments<T> a) {
  extern __shared__ float shared_floats[];
  float* tile = shared_floats;                         // (kTile, Dh + 1): K, then V
  float* q_shared = tile + kTile * (a.head_size + 1);  // (kWarps · kRows, Dh)
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.y), g = head / a.group;
  const int first_token = static_cast<int>(blockIdx.x) * kWarps * kRows;

  pdl_launch_dependents();
  pdl_wait();
  const int position = *a.position;
  const int last_token = min(first_token + kWarps * kRows, a.tokens) - 1;
  const int end = min(a.causal ? position + last_token + 1 : position + a.tokens, a.bound);
  const int begin = a.window > 0 ? max(0, position + first_token - a.window + 1) : 0;
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * kRows * a.head_size; i += kThreads) {
    const int t = first_token + i / a.head_size;
    q_shared[i] =
        t < a.tokens ? to_f32(a.q[t * a.q_token + head * a.q_head + i % a.head_size]) : 0.0f;
  }
  const float* queries = q_shared + warp * kRows * a.head_size;
  const int first_query = position + first_token + warp * kRows;

  float out[kRows][kParts] = {}, maximum[kRows], total[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) maximum[r] = -INFINITY;
  for (int first_key = begin / kTile * kTile; first_key < end; first_key += kTile) {
    __syncthreads();  // q is in; every warp is done with the tile
    load_tile(tile, a.k + g * a.k_head, a.k_row, first_key, begin, end, a.head_size);
    __syncthreads();  // K is in
    float score[kRows] = {};
    for (int d = 0; d < a.head_size; ++d) {
      const float key = tile[lane * (a.head_size + 1) + d];
#pragma unroll
      for (int r = 0; r < kRows; ++r) score[r] = fmaf(queries[r * a.head_size + d], key, score[r]);
    }
    const int j = first_key + lane;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int query = first_query + r;
      const bool seen =
          j < end && (!a.causal || j <= query) && (a.window == 0 || query - j < a.window);
      score[r] = seen ? score[r] * a.scale_log2 : -INFINITY;
      const float greatest = fmaxf(maximum[r], warp_max(score[r]));
      // A row that has seen no key yet keeps −∞ and must not make −∞ − (−∞).
      const float shift = greatest == -INFINITY ? 0.0f : greatest;
      const float rescale = exp2f(maximum[r] - shift);
      maximum[r] = greatest;
      score[r] = exp2f(score[r] - shift);
      total[r] = total[r] * rescale + warp_sum(score[r]);
#pragma unroll
      for (int p = 0; p < kParts; ++p) out[r][p] *= rescale;
    }
    __syncthreads();  // every warp is done with K
    load_tile(tile, a.v + g * a.v_head, a.v_row, first_key, begin, end, a.head_size);
    __syncthreads();  // V is in
    for (int key = 0; key < kTile; ++key) {
      float weight[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) weight[r] = __shfl_sync(kFullWarp, score[r], key);
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        const int d = p * 32 + lane;
        const float value = d < a.head_size ? tile[key * (a.head_size + 1) + d] : 0.0f;
#pragma unroll
        for (int r = 0; r < kRows; ++r) out[r][p] = fmaf(weight[r], value, out[r][p]);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int token = first_token + warp * kRows + r;
    if (token >= a.tokens) continue;
    const float inverse = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const int d = p * 32 + lane;
      if (d < a.head_size) {
        a.out[token * a.out_token + head * a.out_head + d] = from_f32<T>(out[r][p] * inverse);
      }
    }
    if (a.lse != nullptr && lane == 0) {
      a.lse[head * a.lse_head + token] =
          total[r] > 0.0f ? (maximum[r] + log2f(total[r])) * kLn2 : -INFINITY;
    }
  }
}

template <typename T, int kParts, int kRows>
void launch_plain(CudaContext& context, const AttentionCall& call) {
  PlainArguments<T> a{};
  a.out = call.out.as<T>();
  a.q = call.q.as<T>();
  a.k = call.k_cache.as<T>();
  a.v = call.v_cache.as<T>();
  a.position = call.position.as<int>();
  a.lse = call.lse.as<float>();
  a.out_token = call.out.stride(0), a.out_head = call.out.stride(1);
  a.q_token = call.q.stride(0), a.q_head = call.q.stride(1);
  a.k_head = call.k_cache.stride(0), a.k_row = call.k_cache.stride(1);
  a.v_head = call.v_cache.stride(0), a.v_row = call.v_cache.stride(1);
  a.lse_head = call.lse ? call.lse.stride(0) : 0;
  a.head_size = static_cast<int>(call.q.size(2));
  a.group = static_cast<int>(call.q.size(1) / call.k_cache.size(0));
  a.tokens = static_cast<int>(call.q.size(0));
  a.bound = static_cast<int>(call.bound);
  a.window = static_cast<int>(std::min<std::int64_t>(call.window, 0x7fffffff));
  a.scale_log2 = call.scale * kLog2e;
  a.causal = call.causal;
  const dim3 grid(to_unsigned((call.q.size(0) + kWarps * kRows - 1) / (kWarps * kRows)),
                  to_unsigned(call.q.size(1)));
  const int floats = kTile * (a.head_size + 1) + kWarps * kRows * a.head_size;
  launch(context, attention_plain_kernel<T, kParts, kRows>, grid, kThreads,
         static_cast<std::size_t>(floats) * sizeof(float), a);
}

}  // namespace

void attention_plain(CudaContext& context, const AttentionCall& call) {
  const std::int64_t head_size = call.q.size(2);
  ENGINE_CHECK(head_size <= kPlainHeadSize, ErrorKind::kUnsupported, "attention: head size ",
               head_size, ", the CUDA kernels go to ", kPlainHeadSize);
  dispatch_float(call.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (head_size <= 64) {
      launch_plain<T, 2, 4>(context, call);
    } else if (head_size <= 128) {
      launch_plain<T, 4, 4>(context, call);
    } else if (head_size <= 256) {
      launch_plain<T, 8, 4>(context, call);
    } else {
      launch_plain<T, 16, 1>(context, call);
    }
  });
}

}  // namespace engine::cuda
