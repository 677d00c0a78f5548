// The ends of attention's backward: what it needs of every query row before its products, and dQ
// from the sums of Hopper's kernel after them.
//
// attention_backward_rows: the score's offset − lse in units of log2 (−∞ for a row that sees
// nothing, and for the rows that fill a tile: P = exp2(s − ∞) = 0) and −δ[i, h] = −Σ_d dO[i, h, d]
// · O[i, h, d], in fp32; and zeros in the sums of dQ and the counters. A block has 32 rows of a
// head, 8 lanes a row; reads 2 tensors, writes the sums. attention_backward_convert: dq = scale ·
// sum, rounded; a block has a tile of 64 queries. Limit of both: bytes.
#include <algorithm>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/quad.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kLanes = 8, kRows = kThreads / kLanes;
constexpr int kTile = static_cast<int>(kBackwardQueryTile);

template <typename T>
struct RowsArguments {
  BackwardShape shape;
  const T *out, *dout;
  BackwardRows out_rows, dout_rows;
  const float* lse;
  BackwardRows lse_rows;
  float *minus_lse, *minus_delta;  // (H, tiles, 64)
  float4* dq;                      // (H, tiles, 64, sum_vectors), or null
  std::uint32_t* counters;
  int counter_count, sum_vectors;
  bool vectors;  // rows are read 16 bytes at a time
};

template <typename T>
__device__ float row_delta(const T* out, const T* dout, int size, bool vectors) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  float sum = 0.0f;
  if (vectors) {
    for (int d = lane * kPerVector<T>; d < size; d += kLanes * kPerVector<T>) {
      float a[kPerVector<T>], b[kPerVector<T>];
      unpack<T>(load_vector(out + d), a);
      unpack<T>(load_vector(dout + d), b);
#pragma unroll
      for (int i = 0; i < kPerVector<T>; ++i) sum = fmaf(a[i], b[i], sum);
    }
  } else {
    for (int d = lane; d < size; d += kLanes) sum = fmaf(to_f32(out[d]), to_f32(dout[d]), sum);
  }
  return warp_sum<kLanes>(sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_backward_rows_kernel(const RowsArguments<T> a) {
  constexpr float kLog2e = 1.4426950408889634f;
  const int b = static_cast<int>(blockIdx.z), h = static_cast<int>(blockIdx.y);
  const int i = static_cast<int>(blockIdx.x) * kRows + static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  pdl_launch_dependents();
  pdl_wait();
  if (blockIdx.x == 0) {
    const int block = b * static_cast<int>(gridDim.y) + h;
    const int blocks = static_cast<int>(gridDim.y * gridDim.z);
    for (int c = block * kThreads + static_cast<int>(threadIdx.x); c < a.counter_count;
         c += blocks * kThreads) {
      a.counters[c] = 0;
    }
  }
  const int count = a.shape.query_count(b);
  if (i >= (count + kTile - 1) / kTile * kTile) return;  // whole warps: 4 rows each
  const std::int64_t at = (h * a.shape.tiles + a.shape.first_tile(b)) * kTile + i;
  if (a.dq != nullptr) {
    for (int d = lane; d < a.sum_vectors; d += kLanes) a.dq[at * a.sum_vectors + d] = float4{};
  }
  // A row that fills the tile is read as one of no columns: the lanes of a warp stay together.
  const std::int64_t row = a.shape.first_query(b) + min(i, count - 1);
  float delta =
      row_delta(a.out + b * a.out_rows.batch + row * a.out_rows.row + h * a.out_rows.head,
                a.dout + b * a.dout_rows.batch + row * a.dout_rows.row + h * a.dout_rows.head,
                i < count ? a.shape.head_size : 0, a.vectors);
  const float lse = a.lse[b * a.lse_rows.batch + row * a.lse_rows.row + h * a.lse_rows.head];
  const bool empty = i >= count || lse == -INFINITY;
  if (empty) delta = 0.0f;
  if (lane == 0) {
    a.minus_lse[at] = empty ? -INFINITY : (score_offset(a.shape.rule, h) - lse) * kLog2e;
    a.minus_delta[at] = -delta;
  }
}

template <typename T>
struct ConvertArguments {
  BackwardShape shape;
  T* dq;
  BackwardRows rows;
  const float4* sums;  // (H, tiles, 2, kHead / 16, 128) of sm90_attention_backward.cuh's fragments
};

template <typename T, int kHead>
__global__ void __launch_bounds__(kThreads)
    attention_backward_convert_kernel(const ConvertArguments<T> a) {
  const int b = static_cast<int>(blockIdx.z), h = static_cast<int>(blockIdx.y);
  const int tile = static_cast<int>(blockIdx.x), half = static_cast<int>(threadIdx.x) / 128;
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  pdl_launch_dependents();
  pdl_wait();
  const int count = a.shape.query_count(b);
  if (tile * kTile >= count) return;
  const std::int64_t unit = (h * a.shape.tiles + a.shape.first_tile(b) + tile) * 2 + half;
  const float4* sums = a.sums + unit * (kHead / 16) * 128 + thread;
  std::uint32_t low[kHead / 16], high[kHead / 16];
#pragma unroll
  for (int i = 0; i < kHead / 16; ++i) {
    const float4 sum = sums[i * 128];
    low[i] = pack_pair<T>(sum.x * a.shape.scale, sum.y * a.shape.scale);
    high[i] = pack_pair<T>(sum.z * a.shape.scale, sum.w * a.shape.scale);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = tile * kTile + thread / 32 * 16 + lane / 4 + 8 * r;
    T* row = a.dq + b * a.rows.batch + (a.shape.first_query(b) + i) * a.rows.row + h * a.rows.head;
#pragma unroll
    for (int d = 0; d < kHead / 64; ++d) {
      std::uint32_t word[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) word[n] = r == 0 ? low[4 * d + n] : high[4 * d + n];
      transpose_quad(word);
      const int column = half * (kHead / 2) + d * 32 + lane % 4 * 8;
      if (i < count && column < a.shape.head_size) {
        store_vector(row + column, uint4{word[0], word[1], word[2], word[3]});
      }
    }
  }
}

template <typename T>
void launch_rows(CudaContext& context, const AttentionBackwardCall& call,
                 const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  RowsArguments<T> a{};
  a.shape = backward_shape(call);
  a.out = static_cast<const T*>(call.out.data);
  a.dout = static_cast<const T*>(call.dout.data);
  a.out_rows = backward_strides(call.out);
  a.dout_rows = backward_strides(call.dout);
  a.lse = call.lse;
  a.lse_rows = {call.lse_batch, call.lse_row, call.lse_head};
  a.minus_lse = scratch.minus_lse;
  a.minus_delta = scratch.minus_delta;
  a.counters = scratch.counters;
  a.counter_count = static_cast<int>(scratch.counter_count);
  if (plan.kernel == AttentionBackwardKernel::kSm90) {
    a.dq = reinterpret_cast<float4*>(scratch.dq);
    a.sum_vectors = plan.head_bucket / 4;
  }
  a.vectors = plan.kernel != AttentionBackwardKernel::kPlain;
  // At least one block of a head: it zeros the counters.
  const std::int64_t tiles = std::max<std::int64_t>((call.queries + kTile - 1) / kTile, 1);
  const dim3 grid(to_unsigned(tiles * (kTile / kRows)), to_unsigned(call.heads),
                  to_unsigned(call.batch));
  launch(context, attention_backward_rows_kernel<T>, grid, kThreads, 0, a);
}

template <typename T, int kHead>
void launch_convert(CudaContext& context, const AttentionBackwardCall& call,
                    const BackwardScratch& scratch) {
  const ConvertArguments<T> a{backward_shape(call), static_cast<T*>(call.dq.data),
                              backward_strides(call.dq),
                              reinterpret_cast<const float4*>(scratch.dq)};
  const dim3 grid(to_unsigned((call.queries + kTile - 1) / kTile), to_unsigned(call.heads),
                  to_unsigned(call.batch));
  launch(context, attention_backward_convert_kernel<T, kHead>, grid, kThreads, 0, a);
}

template <typename T>
void pick_convert(CudaContext& context, const AttentionBackwardCall& call,
                  const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  if (plan.head_bucket == 64) return launch_convert<T, 64>(context, call, scratch);
  launch_convert<T, 128>(context, call, scratch);
}

}  // namespace

void attention_backward_rows(CudaContext& context, const AttentionBackwardCall& call,
                             const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  dispatch_float(call.dtype, [&]<typename Tag>(Tag) {
    launch_rows<typename Tag::type>(context, call, plan, scratch);
  });
}

void attention_backward_convert(CudaContext& context, const AttentionBackwardCall& call,
                                const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  if (call.dtype == DType::kF16) return pick_convert<__half>(context, call, plan, scratch);
  pick_convert<__nv_bfloat16>(context, call, plan, scratch);
}

}  // namespace engine::cuda
