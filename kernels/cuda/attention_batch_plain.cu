// attention_batch on CUDA cores: flash attention for any type, head size up to 512, stride and
// alignment, every score function.
//
//   out[b, i, h] = Σ_j softmax_j(y(scale · q[b, i, h] · k[b, j, g])) v[b, j, g]
// Layout: q and out (B, Q, H, Dh), k and v (B, K, G, Dh), all strided, rows of sequences joined
// where the batch is ragged. Who computes what: a block of 8 warps has 8 · kRows queries of one
// head, a warp kRows of them; keys pass in tiles of 32 through shared memory, first K, then V in
// its place. A lane scores one key for each of its warp's queries, and then owns every 32nd element
// of their results (kParts of them) while the weights come by shuffle. Online softmax in base 2.
// Limit: fp32 multiply-adds.
#include "kernels/cuda/attention_batch.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kTile = 32;

// Rows [first, first + kTile) of (·, head_size) as fp32, rows of head_size + 1 (so that lanes
// reading down a column meet different banks), zeros outside [begin, end).
template <typename T>
__device__ void load_tile(float* tile, const T* source, std::int64_t stride, int first,
                          KeyInterval seen, int head_size) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * head_size; i += kThreads) {
    const int r = i / head_size, d = i % head_size;
    tile[r * (head_size + 1) + d] =
        first + r >= seen.begin && first + r < seen.end
            ? to_f32(source[static_cast<std::int64_t>(first + r) * stride + d])
            : 0.0f;
  }
}

template <typename T, int kParts, int kRows>
__global__ void __launch_bounds__(kThreads)
    attention_batch_plain_kernel(const AttentionBatchArguments a) {
  extern __shared__ float shared_floats[];
  float* tile = shared_floats;                         // (kTile, Dh + 1): K, then V
  float* q_shared = tile + kTile * (a.head_size + 1);  // (kWarps · kRows, Dh)
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.x) % a.heads;
  const int first_row = static_cast<int>(blockIdx.y) * kWarps * kRows;

  pdl_launch_dependents();
  pdl_wait();
  const BatchSequence s = a.sequence(static_cast<int>(blockIdx.x) / a.heads);
  if (first_row >= s.queries) return;
  const int first_query = a.shift() + first_row;
  const int last_query = a.shift() + min(first_row + kWarps * kRows, s.queries) - 1;
  const KeyInterval block = a.block_keys(first_query, last_query, s.keys);
  const T* q = static_cast<const T*>(a.q) + s.plane * a.q_stride.batch +
               s.first_query * a.q_stride.row + head * a.q_stride.head;
  const T* k = static_cast<const T*>(a.k) + s.plane * a.k_stride.batch +
               s.first_key * a.k_stride.row + head / a.group * a.k_stride.head;
  const T* v = static_cast<const T*>(a.v) + s.plane * a.v_stride.batch +
               s.first_key * a.v_stride.row + head / a.group * a.v_stride.head;
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * kRows * a.head_size; i += kThreads) {
    const int row = first_row + i / a.head_size;
    q_shared[i] = row < s.queries ? to_f32(q[row * a.q_stride.row + i % a.head_size]) : 0.0f;
  }
  const float* queries = q_shared + warp * kRows * a.head_size;

  float out[kRows][kParts] = {}, maximum[kRows], total[kRows] = {};
  KeyInterval seen[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    maximum[r] = -INFINITY;
    seen[r] = a.seen(first_query + warp * kRows + r, s.keys);
  }
  for (int first_key = block.begin / kTile * kTile; first_key < block.end; first_key += kTile) {
    __syncthreads();  // q is in; every warp is done with the tile
    load_tile(tile, k, a.k_stride.row, first_key, block, a.head_size);
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
      const int distance = first_query + warp * kRows + r - j;
      const float value = score_value(a.rule, score[r] * a.scale, head, distance);
      score[r] = j >= seen[r].begin && j < seen[r].end ? value * kLog2OfE : -INFINITY;
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
    load_tile(tile, v, a.v_stride.row, first_key, block, a.head_size);
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

  T* result = static_cast<T*>(a.out) + s.plane * a.out_stride.batch + head * a.out_stride.head;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = first_row + warp * kRows + r;
    if (row >= s.queries) continue;
    const float inverse = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const int d = p * 32 + lane;
      if (d < a.head_size) {
        result[(s.first_query + row) * a.out_stride.row + d] = from_f32<T>(out[r][p] * inverse);
      }
    }
    if (a.lse != nullptr && lane == 0) {
      a.lse[s.plane * a.lse_batch + head * a.lse_head + s.first_query + row] =
          total[r] > 0.0f ? (maximum[r] + log2f(total[r])) * kNaturalOf2 : -INFINITY;
    }
  }
}

template <typename T, int kParts, int kRows>
void launch_plain(CudaContext& context, const AttentionBatchCall& call) {
  const AttentionBatchArguments a = batch_arguments(call);
  const std::int64_t blocks = (call.queries() + kWarps * kRows - 1) / (kWarps * kRows);
  const dim3 grid(to_unsigned(call.sequences() * a.heads), to_unsigned(blocks));
  const int floats = kTile * (a.head_size + 1) + kWarps * kRows * a.head_size;
  launch(context, attention_batch_plain_kernel<T, kParts, kRows>, grid, kThreads,
         static_cast<std::size_t>(floats) * sizeof(float), a);
}

}  // namespace

void attention_batch_plain(CudaContext& context, const AttentionBatchCall& call) {
  const std::int64_t head_size = call.q.size(3);
  ENGINE_CHECK(head_size <= kPlainHeadSize, ErrorKind::kUnsupported, "attention_batch: head size ",
               head_size, ", the CUDA kernels go to ", kPlainHeadSize);
  dispatch_float(call.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (head_size <= 128) {
      launch_plain<T, 4, 4>(context, call);
    } else {
      launch_plain<T, 16, 1>(context, call);
    }
  });
}

}  // namespace engine::cuda
