// The backward of attention on CUDA cores: any type, head size and stride.
//
// Formulas in attention_backward.h. Two passes, each summing in a fixed order: a block of the first
// has 16 keys of one key/value head and goes over the queries of its group's heads for dK and dV; a
// block of the second has 16 queries of one head and goes over the keys for dQ. In both each thread
// forms one of 16 × 16 pairs of P and dS, two dot products over the head read through the caches,
// and then owns columns of the sums. fp32 throughout. Limit: loads from L1; it serves what no
// tensor-core kernel takes.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kTile = 16;
constexpr int kStatTile = static_cast<int>(kBackwardQueryTile);

template <typename T>
struct PlainArguments {
  BackwardShape shape;
  const T *q, *k, *v, *dout;
  T *dq, *dk, *dv;
  BackwardRows q_rows, k_rows, v_rows, dout_rows, dq_rows, dk_rows, dv_rows;
  const float *minus_lse, *minus_delta;  // (H, tiles, 64)
};

// P and dS of the pairs of 16 queries and 16 keys that begin at `query` and `key`, into shared
// memory (16 queries, 16 keys) each; zeros where a query doesn't see a key, or there is none.
template <typename T>
__device__ void form_pairs(const PlainArguments<T>& a, int b, int h, int query, int key,
                           float (*p)[kTile], float (*ds)[kTile]) {
  const int r = static_cast<int>(threadIdx.x) / kTile, c = static_cast<int>(threadIdx.x) % kTile;
  const int i = query + r, j = key + c, g = h / a.shape.group;
  const BackwardMask mask{a.shape.rule, a.shape.key_count(b)};
  float probability = 0.0f, gradient = 0.0f;
  if (i < a.shape.query_count(b) && mask.sees(i + a.shape.shift(), j)) {
    const std::int64_t qi = a.shape.first_query(b) + i, kj = a.shape.first_key(b) + j;
    const T* q = a.q + b * a.q_rows.batch + qi * a.q_rows.row + h * a.q_rows.head;
    const T* dout = a.dout + b * a.dout_rows.batch + qi * a.dout_rows.row + h * a.dout_rows.head;
    const T* k = a.k + b * a.k_rows.batch + kj * a.k_rows.row + g * a.k_rows.head;
    const T* v = a.v + b * a.v_rows.batch + kj * a.v_rows.row + g * a.v_rows.head;
    float score = 0.0f, dp = 0.0f;
    for (int d = 0; d < a.shape.head_size; ++d) {
      score = fmaf(to_f32(q[d]), to_f32(k[d]), score);
      dp = fmaf(to_f32(dout[d]), to_f32(v[d]), dp);
    }
    const std::int64_t at = (h * a.shape.tiles + a.shape.first_tile(b)) * kStatTile + i;
    float derivative;
    probability = BackwardScore(a.shape, h)
                      .probability(score, i + a.shape.shift() - j, a.minus_lse[at], &derivative);
    gradient = probability * derivative * (dp + a.minus_delta[at]);
  }
  p[r][c] = probability;
  ds[r][c] = gradient;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_backward_keys_kernel(const PlainArguments<T> a) {
  __shared__ float p[kTile][kTile], ds[kTile][kTile];
  const int b = static_cast<int>(blockIdx.z), g = static_cast<int>(blockIdx.y);
  const int key = static_cast<int>(blockIdx.x) * kTile;
  pdl_launch_dependents();
  pdl_wait();
  const BackwardMask mask{a.shape.rule, a.shape.key_count(b)};
  if (key >= mask.keys) return;
  const int count = a.shape.query_count(b), shift = a.shape.shift();
  const KeyInterval seeing = mask.queries(key, kTile, shift, count);
  const std::int64_t first_key = a.shape.first_key(b) + key;
  for (int d = static_cast<int>(threadIdx.x); d - static_cast<int>(threadIdx.x) < a.shape.head_size;
       d += kThreads) {
    float dk[kTile] = {}, dv[kTile] = {};
    for (int h = g * a.shape.group; h < (g + 1) * a.shape.group; ++h) {
      for (int query = max(0, seeing.begin); query < seeing.end; query += kTile) {
        form_pairs(a, b, h, query, key, p, ds);
        __syncthreads();  // the pairs are there
        for (int r = 0; r < min(kTile, count - query) && d < a.shape.head_size; ++r) {
          const std::int64_t i = a.shape.first_query(b) + query + r;
          const float q =
              to_f32(a.q[b * a.q_rows.batch + i * a.q_rows.row + h * a.q_rows.head + d]);
          const float dout = to_f32(
              a.dout[b * a.dout_rows.batch + i * a.dout_rows.row + h * a.dout_rows.head + d]);
#pragma unroll
          for (int c = 0; c < kTile; ++c) {
            dk[c] = fmaf(ds[r][c], q, dk[c]);
            dv[c] = fmaf(p[r][c], dout, dv[c]);
          }
        }
        __syncthreads();  // everyone is done with the pairs
      }
    }
#pragma unroll
    for (int c = 0; c < kTile; ++c) {
      if (key + c >= mask.keys || d >= a.shape.head_size) continue;
      a.dk[b * a.dk_rows.batch + (first_key + c) * a.dk_rows.row + g * a.dk_rows.head + d] =
          from_f32<T>(dk[c] * a.shape.scale);
      a.dv[b * a.dv_rows.batch + (first_key + c) * a.dv_rows.row + g * a.dv_rows.head + d] =
          from_f32<T>(dv[c]);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_backward_queries_kernel(const PlainArguments<T> a) {
  __shared__ float p[kTile][kTile], ds[kTile][kTile];
  const int b = static_cast<int>(blockIdx.z), h = static_cast<int>(blockIdx.y);
  const int query = static_cast<int>(blockIdx.x) * kTile, g = h / a.shape.group;
  pdl_launch_dependents();
  pdl_wait();
  const int count = a.shape.query_count(b), keys = a.shape.key_count(b);
  if (query >= count) return;
  const int first = query + a.shape.shift(), last = first + min(kTile, count - query) - 1;
  const int begin = max(0, visible_keys(a.shape.rule, first, keys).begin);
  const int end = visible_keys(a.shape.rule, last, keys).end;
  for (int d = static_cast<int>(threadIdx.x); d - static_cast<int>(threadIdx.x) < a.shape.head_size;
       d += kThreads) {
    float dq[kTile] = {};
    for (int key = begin; key < end; key += kTile) {
      form_pairs(a, b, h, query, key, p, ds);
      __syncthreads();  // the pairs are there
      for (int c = 0; c < min(kTile, keys - key) && d < a.shape.head_size; ++c) {
        const std::int64_t j = a.shape.first_key(b) + key + c;
        const float k = to_f32(a.k[b * a.k_rows.batch + j * a.k_rows.row + g * a.k_rows.head + d]);
#pragma unroll
        for (int r = 0; r < kTile; ++r) dq[r] = fmaf(ds[r][c], k, dq[r]);
      }
      __syncthreads();  // everyone is done with the pairs
    }
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
      if (query + r >= count || d >= a.shape.head_size) continue;
      const std::int64_t i = a.shape.first_query(b) + query + r;
      a.dq[b * a.dq_rows.batch + i * a.dq_rows.row + h * a.dq_rows.head + d] =
          from_f32<T>(dq[r] * a.shape.scale);
    }
  }
}

template <typename T>
void launch_plain(CudaContext& context, const AttentionBackwardCall& call,
                  const BackwardScratch& scratch) {
  const auto read = [](const AttentionRows& rows) { return static_cast<const T*>(rows.data); };
  const auto write = [](const AttentionRows& rows) { return static_cast<T*>(rows.data); };
  const PlainArguments<T> a{.shape = backward_shape(call),
                            .q = read(call.q),
                            .k = read(call.k),
                            .v = read(call.v),
                            .dout = read(call.dout),
                            .dq = write(call.dq),
                            .dk = write(call.dk),
                            .dv = write(call.dv),
                            .q_rows = backward_strides(call.q),
                            .k_rows = backward_strides(call.k),
                            .v_rows = backward_strides(call.v),
                            .dout_rows = backward_strides(call.dout),
                            .dq_rows = backward_strides(call.dq),
                            .dk_rows = backward_strides(call.dk),
                            .dv_rows = backward_strides(call.dv),
                            .minus_lse = scratch.minus_lse,
                            .minus_delta = scratch.minus_delta};
  const auto grid = [&](std::int64_t rows, std::int64_t heads) {
    return dim3(to_unsigned((rows + kTile - 1) / kTile), to_unsigned(heads),
                to_unsigned(call.batch));
  };
  if (call.keys > 0) {
    launch(context, attention_backward_keys_kernel<T>, grid(call.keys, call.kv_heads), kThreads, 0,
           a);
  }
  if (call.queries > 0) {
    launch(context, attention_backward_queries_kernel<T>, grid(call.queries, call.heads), kThreads,
           0, a);
  }
}

}  // namespace

void attention_backward_plain(CudaContext& context, const AttentionBackwardCall& call,
                              const BackwardScratch& scratch) {
  dispatch_float(call.dtype, [&]<typename Tag>(Tag) {
    launch_plain<typename Tag::type>(context, call, scratch);
  });
}

}  // namespace engine::cuda
