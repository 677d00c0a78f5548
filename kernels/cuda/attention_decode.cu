// attention for few queries over a long cache: split over the keys, combined by the last block.
//
//   out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[g, j]) v[g, j]
// Layout: q and out (T, H, Dh), caches (G, C, Dh), all strided with 16-byte rows.
// Who computes what: a block has one chunk of kDecodeChunk keys of one key/value head and one
// query, for every query head of its group, so that K and V are read once. Each of 8 warps has 16
// keys; kLanes lanes share a key, 16 bytes × kVectors a lane. Scores go to shared memory, then
// weights, then each warp sums its keys' values and the warps' sums are added in order. With more
// than one live chunk, blocks leave (sum, maximum, total) in scratch; the last one to arrive, told
// by a counter that it resets, combines them in the order of the chunks. Chunks are fixed, so a
// result depends on neither the bound nor the arrival order. Limit: bytes of K and V.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kHeadTile = 4;
constexpr int kChunk = static_cast<int>(kDecodeChunk), kWarpKeys = kChunk / kWarps;
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <typename T>
struct DecodeArguments {
  T* out;          // (T, H, Dh)
  const T* q;      // (T, H, Dh)
  const T *k, *v;  // (G, C, Dh)
  const int* position;
  float* lse;       // (H, T) or null
  float* partials;  // (T, G, chunks) records: (group, Dh) sums, then (group, 2) maximum and total
  std::uint32_t* counters;  // (T, G), zero between launches
  std::int64_t out_token, out_head, q_token, q_head, k_head, k_row, v_head, v_row, lse_head;
  int head_size, group, tokens, chunks, record, bound, window;
  float scale;
  bool causal;
};

// One lane's vectors of its keys: key i of the lane's share, zero where `live` is false.
template <typename T, int kLanes, int kVectors>
__device__ void load_keys(uint4 (&raw)[kWarpKeys * kLanes / 32][kVectors], const T* rows,
                          std::int64_t stride, int first_key, int begin, int end, int head_size) {
  const int lane = static_cast<int>(threadIdx.x) % 32, part = lane % kLanes, sub = lane / kLanes;
#pragma unroll
  for (int i = 0; i < kWarpKeys * kLanes / 32; ++i) {
    const int key = first_key + i * (32 / kLanes) + sub;
#pragma unroll
    for (int c = 0; c < kVectors; ++c) {
      const int d = (c * kLanes + part) * kPerVector<T>;
      raw[i][c] = key >= begin && key < end && d < head_size ? load_vector(rows + key * stride + d)
                                                             : make_uint4(0, 0, 0, 0);
    }
  }
}

// Adds up the chunks' partial results for every head of the group, in order.
template <typename T>
__device__ void combine_chunks(const DecodeArguments<T>& a, int t, int g, int first, int last,
                               float* maxima, float* totals, float* segments) {
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const int sums = a.group * a.head_size, record = a.record;
  const float* base =
      a.partials + (static_cast<std::int64_t>(t) * gridDim.y + g) * a.chunks * record;
  for (int h = warp; h < a.group; h += kWarps) {
    float greatest = -INFINITY, total = 0.0f;
    for (int c = first + lane; c <= last; c += 32) {
      greatest =
          fmaxf(greatest, __ldcg(base + static_cast<std::int64_t>(c) * record + sums + 2 * h));
    }
    greatest = warp_max(greatest);
    for (int c = first + lane; c <= last; c += 32) {
      const float* pair = base + static_cast<std::int64_t>(c) * record + sums + 2 * h;
      total += __ldcg(pair + 1) * exp2f(__ldcg(pair) - greatest);
    }
    total = warp_sum(total);
    if (lane == 0) maxima[h] = greatest, totals[h] = total;
  }
  __syncthreads();  // every head's maximum and total are known

  // A thread has four adjacent sums; where there are fewer of those than threads, several threads
  // take turns at the chunks and their parts are added in order.
  const int items = sums / 4;
  const int spread = max(1, min(kThreads / items, kWarps * kHeadTile / a.group));
  const int segment = spread > 1 ? tid / items : 0;
  for (int item = spread > 1 ? tid % items : tid; item < items; item += kThreads) {
    const int h = item * 4 / a.head_size, d = item * 4 % a.head_size;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (segment < spread) {
#pragma unroll 4
      for (int c = first + segment; c <= last; c += spread) {
        const float* part = base + static_cast<std::int64_t>(c) * record;
        const float factor = exp2f(__ldcg(part + sums + 2 * h) - maxima[h]);
        const float4 value = __ldcg(reinterpret_cast<const float4*>(part + item * 4));
        sum.x += value.x * factor, sum.y += value.y * factor;
        sum.z += value.z * factor, sum.w += value.w * factor;
      }
    }
    if (spread > 1) {  // items ≤ kThreads / 2: every thread takes one turn of the loop
      if (segment < spread) reinterpret_cast<float4*>(segments)[segment * items + item] = sum;
    } else {
      const float inverse = 1.0f / totals[h];
      T* to = a.out + t * a.out_token + (g * a.group + h) * a.out_head + d;
      to[0] = from_f32<T>(sum.x * inverse), to[1] = from_f32<T>(sum.y * inverse);
      to[2] = from_f32<T>(sum.z * inverse), to[3] = from_f32<T>(sum.w * inverse);
    }
  }
  if (spread > 1) {
    __syncthreads();  // every segment's part is in
    for (int i = tid; i < sums; i += kThreads) {
      const int h = i / a.head_size, d = i % a.head_size;
      float sum = 0.0f;
      for (int s = 0; s < spread; ++s) sum += segments[s * sums + i];
      a.out[t * a.out_token + (g * a.group + h) * a.out_head + d] = from_f32<T>(sum / totals[h]);
    }
  }
  if (a.lse != nullptr) {
    for (int h = tid; h < a.group; h += kThreads) {
      a.lse[(g * a.group + h) * a.lse_head + t] = (maxima[h] + log2f(totals[h])) * kLn2;
    }
  }
}

template <typename T, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads) attention_decode_kernel(const DecodeArguments<T> a) {
  constexpr int kPer = kPerVector<T>, kShare = kWarpKeys * kLanes / 32;
  static_assert(kWarpKeys % (32 / kLanes) == 0, "a warp's keys fill whole loads");
  extern __shared__ float shared[];
  float* q_shared = shared;                                  // (group, Dh), scaled for exp2
  float* weights = q_shared + a.group * a.head_size;         // (group, kChunk)
  float* parts = weights + a.group * kChunk;                 // (kWarps, kHeadTile, Dh)
  float* maxima = parts + kWarps * kHeadTile * a.head_size;  // (group)
  float* totals = maxima + a.group;                          // (group)
  __shared__ bool is_last;
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const int part = lane % kLanes, sub = lane / kLanes;
  const int g = static_cast<int>(blockIdx.y), t = static_cast<int>(blockIdx.z);

  pdl_launch_dependents();
  pdl_wait();
  // The keys that this query sees, and the chunks that hold any.
  const int query = *a.position + t;
  const int end = min(a.causal ? query + 1 : *a.position + a.tokens, a.bound);
  const int begin = a.window > 0 ? max(0, query - a.window + 1) : 0;
  const int first_chunk = begin / kChunk, last_chunk = (end - 1) / kChunk;
  const int chunk = static_cast<int>(blockIdx.x);
  if (end <= begin) {  // none: zeros
    if (chunk != 0) return;
    for (int i = tid; i < a.group * a.head_size; i += kThreads) {
      const int h = g * a.group + i / a.head_size;
      a.out[t * a.out_token + h * a.out_head + i % a.head_size] = from_f32<T>(0.0f);
    }
    for (int h = tid; a.lse != nullptr && h < a.group; h += kThreads) {
      a.lse[(g * a.group + h) * a.lse_head + t] = -INFINITY;
    }
    return;
  }
  if (chunk < first_chunk || chunk > last_chunk) return;

  uint4 keys[kShare][kVectors], values[kShare][kVectors];
  const int first_key = chunk * kChunk + warp * kWarpKeys;
  load_keys<T, kLanes, kVectors>(keys, a.k + g * a.k_head, a.k_row, first_key, begin, end,
                                 a.head_size);
  constexpr bool kValuesEarly = kShare * kVectors <= 8;  // while registers allow it
  if constexpr (kValuesEarly) {
    load_keys<T, kLanes, kVectors>(values, a.v + g * a.v_head, a.v_row, first_key, begin, end,
                                   a.head_size);
  }
  for (int i = tid; i < a.group * a.head_size; i += kThreads) {
    const int h = g * a.group + i / a.head_size;
    q_shared[i] = to_f32(a.q[t * a.q_token + h * a.q_head + i % a.head_size]) * a.scale * kLog2e;
  }
  __syncthreads();  // q is complete

  // Scores in units of log2: one key per kLanes lanes.
  for (int h = 0; h < a.group; ++h) {
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      float score = 0.0f;
#pragma unroll
      for (int c = 0; c < kVectors; ++c) {
        const int d = (c * kLanes + part) * kPer;
        float key[kPer];
        unpack<T>(keys[i][c], key);
        if (d < a.head_size) {
          const auto* query_part = reinterpret_cast<const float4*>(q_shared + h * a.head_size + d);
#pragma unroll
          for (int j = 0; j < kPer / 4; ++j) {
            const float4 x = query_part[j];
            score = fmaf(x.x, key[4 * j], score), score = fmaf(x.y, key[4 * j + 1], score);
            score = fmaf(x.z, key[4 * j + 2], score), score = fmaf(x.w, key[4 * j + 3], score);
          }
        }
      }
      score = warp_sum<kLanes>(score);
      const int local = warp * kWarpKeys + i * (32 / kLanes) + sub, key = chunk * kChunk + local;
      if (part == 0) weights[h * kChunk + local] = key >= begin && key < end ? score : -INFINITY;
    }
  }
  if constexpr (!kValuesEarly) {
    load_keys<T, kLanes, kVectors>(values, a.v + g * a.v_head, a.v_row, first_key, begin, end,
                                   a.head_size);
  }
  __syncthreads();  // all scores are in

  // Softmax of the chunk, unnormalised: a warp per head. A live chunk has at least one key.
  for (int h = warp; h < a.group; h += kWarps) {
    float greatest = -INFINITY, total = 0.0f;
    for (int j = lane; j < kChunk; j += 32) greatest = fmaxf(greatest, weights[h * kChunk + j]);
    greatest = warp_max(greatest);
    for (int j = lane; j < kChunk; j += 32) {
      const float weight = exp2f(weights[h * kChunk + j] - greatest);
      weights[h * kChunk + j] = weight;
      total += weight;
    }
    total = warp_sum(total);
    if (lane == 0) maxima[h] = greatest, totals[h] = total;
  }
  __syncthreads();  // all weights are in

  const bool alone = first_chunk == last_chunk;
  const int sums = a.group * a.head_size;
  float* mine = a.partials + ((static_cast<std::int64_t>(t) * gridDim.y + g) * a.chunks + chunk) *
                                 static_cast<std::int64_t>(a.record);
  for (int h0 = 0; h0 < a.group; h0 += kHeadTile) {
    const int tile = min(kHeadTile, a.group - h0);
    for (int h = 0; h < tile; ++h) {
#pragma unroll
      for (int c = 0; c < kVectors; ++c) {
        float sum[kPer] = {}, value[kPer];
#pragma unroll
        for (int i = 0; i < kShare; ++i) {
          const float weight =
              weights[(h0 + h) * kChunk + warp * kWarpKeys + i * (32 / kLanes) + sub];
          unpack<T>(values[i][c], value);
#pragma unroll
          for (int j = 0; j < kPer; ++j) sum[j] = fmaf(weight, value[j], sum[j]);
        }
        const int d = (c * kLanes + part) * kPer;
#pragma unroll
        for (int j = 0; j < kPer; ++j) {
#pragma unroll
          for (int offset = kLanes; offset < 32; offset *= 2) {
            sum[j] += __shfl_xor_sync(kFullWarp, sum[j], offset);
          }
          if (sub == 0 && d < a.head_size) {
            parts[(warp * kHeadTile + h) * a.head_size + d + j] = sum[j];
          }
        }
      }
    }
    __syncthreads();  // the warps' sums of this tile are in
    for (int i = tid; i < tile * a.head_size; i += kThreads) {
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += parts[w * kHeadTile * a.head_size + i];
      const int h = h0 + i / a.head_size, d = i % a.head_size;
      if (alone) {
        a.out[t * a.out_token + (g * a.group + h) * a.out_head + d] = from_f32<T>(sum / totals[h]);
      } else {
        mine[h * a.head_size + d] = sum;
      }
    }
    __syncthreads();  // parts may be overwritten
  }
  for (int h = tid; h < a.group; h += kThreads) {
    if (alone && a.lse != nullptr) {
      a.lse[(g * a.group + h) * a.lse_head + t] = (maxima[h] + log2f(totals[h])) * kLn2;
    }
    if (!alone) mine[sums + 2 * h] = maxima[h], mine[sums + 2 * h + 1] = totals[h];
  }
  if (alone) return;

  __threadfence();  // this thread's part of the record, before the arrival below
  __syncthreads();
  if (tid == 0) {
    std::uint32_t* counter = a.counters + t * static_cast<int>(gridDim.y) + g;
    is_last = atomicAdd(counter, 1u) == static_cast<unsigned>(last_chunk - first_chunk);
    if (is_last) *counter = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();  // the other blocks' records, after their arrivals
  combine_chunks(a, t, g, first_chunk, last_chunk, maxima, totals, parts);
}

template <typename T, int kLanes, int kVectors>
void launch_decode(CudaContext& context, const AttentionCall& call, const AttentionPlan& plan,
                   void* scratch) {
  DecodeArguments<T> a{};
  a.out = call.out.as<T>();
  a.q = call.q.as<T>();
  a.k = call.k_cache.as<T>();
  a.v = call.v_cache.as<T>();
  a.position = call.position.as<int>();
  a.lse = call.lse.as<float>();
  a.partials = static_cast<float*>(scratch);
  a.counters = context.counters();
  a.out_token = call.out.stride(0), a.out_head = call.out.stride(1);
  a.q_token = call.q.stride(0), a.q_head = call.q.stride(1);
  a.k_head = call.k_cache.stride(0), a.k_row = call.k_cache.stride(1);
  a.v_head = call.v_cache.stride(0), a.v_row = call.v_cache.stride(1);
  a.lse_head = call.lse ? call.lse.stride(0) : 0;
  a.head_size = static_cast<int>(call.q.size(2));
  a.group = static_cast<int>(call.q.size(1) / call.k_cache.size(0));
  a.tokens = static_cast<int>(call.q.size(0));
  a.chunks = static_cast<int>(plan.chunks);
  a.record = static_cast<int>(decode_record_floats(a.group, a.head_size));
  a.bound = static_cast<int>(call.bound);
  a.window = static_cast<int>(std::min<std::int64_t>(call.window, 0x7fffffff));
  a.scale = call.scale;
  a.causal = call.causal;
  const dim3 grid(to_unsigned(plan.chunks), to_unsigned(call.k_cache.size(0)),
                  to_unsigned(call.q.size(0)));
  launch(context, attention_decode_kernel<T, kLanes, kVectors>, grid, kThreads,
         decode_shared_bytes(a.group, a.head_size), a);
}

}  // namespace

void attention_decode(CudaContext& context, const AttentionCall& call, const AttentionPlan& plan,
                      void* scratch) {
  dispatch_float(call.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const std::int64_t vectors = call.q.size(2) / kPerVector<T>;
    if (vectors <= 4) {
      launch_decode<T, 4, 1>(context, call, plan, scratch);
    } else if (vectors <= 8) {
      launch_decode<T, 8, 1>(context, call, plan, scratch);
    } else if (vectors <= 16) {
      launch_decode<T, 16, 1>(context, call, plan, scratch);
    } else if (vectors <= 32) {
      launch_decode<T, 32, 1>(context, call, plan, scratch);
    } else if constexpr (sizeof(T) == 4) {
      launch_decode<T, 32, 2>(context, call, plan, scratch);
    } else {
      fail(ErrorKind::kInternal, "attention: no decode kernel for head size ", call.q.size(2));
    }
  });
}

}  // namespace engine::cuda
