// attention for many queries: flash attention on tensor cores, 16-bit types, fp32 softmax.
//
//   out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[g, j]) v[g, j]
// Layout: q and out (T, H, Dh), caches (G, C, Dh), all strided with 16-byte rows; heads smaller
// than the compiled size are zero-filled. Who computes what: a block of 4 warps has 64 queries of
// one head, a warp 16 of them, a quad of lanes a row; keys pass in tiles of kKeys through two
// stages of shared memory filled by cp.async. S = Q·Kᵀ stays in registers, becomes P there (online
// softmax, base 2), and is the A operand of P·V as it lies. Tiles no query sees (after the causal
// edge, before the window) are skipped; blocks with the longest rows start first. Limit:
// tensor-core rate of mma.sync.
#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/mma_rows.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kQueries = 64, kThreads = 128;
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Keys of a tile, and the stride of a row in shared memory: 16 bytes more than its data, so that
// the 8 rows of an ldmatrix lie in different banks.
template <int kHead>
inline constexpr int kKeys = kHead > 128 ? 32 : 64;
template <int kHead>
inline constexpr int kRow = kHead + 8;
template <int kHead>
inline constexpr std::size_t kSharedBytes =
    static_cast<std::size_t>(kQueries + 4 * kKeys<kHead>) * kRow<kHead> * 2;

template <typename T>
struct PrefillArguments {
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

// Copies rows [first, first + kRows) of (·, head_size) into shared memory, zeros outside [begin,
// end).
template <typename T, int kHead, int kRows>
__device__ void load_rows(T* shared, const T* source, std::int64_t stride, int first, int begin,
                          int end, int head_size) {
  constexpr int kVectors = kHead / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kVectors; i += kThreads) {
    const int r = i / kVectors, d = i % kVectors * 8;
    const bool valid = first + r >= begin && first + r < end && d < head_size;
    cp_async_16(shared + r * kRow<kHead> + d,
                valid ? source + static_cast<std::int64_t>(first + r) * stride + d : source, valid);
  }
}

// The lane's address of the A fragment (16 × 16) at row `row`, column `column`.
template <typename T, int kHead>
__device__ const T* a_fragment(const T* tile, int row, int column) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return tile + (row + lane % 16) * kRow<kHead> + column + lane / 16 * 8;
}

template <typename T, int kHead>
__global__ void __launch_bounds__(kThreads) attention_prefill_kernel(const PrefillArguments<T> a) {
  constexpr int kTile = kKeys<kHead>, kSteps = kHead / 16, kScoreTiles = kTile / 8;
  constexpr bool kQInRegisters = kHead <= 128;
  extern __shared__ uint4 shared[];
  T* q_shared = reinterpret_cast<T*>(shared);        // (kQueries, kRow)
  T* k_shared = q_shared + kQueries * kRow<kHead>;   // (2, kTile, kRow)
  T* v_shared = k_shared + 2 * kTile * kRow<kHead>;  // (2, kTile, kRow)
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.y), g = head / a.group;
  const int first_token = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kQueries;

  pdl_launch_dependents();
  pdl_wait();
  const int position = *a.position;
  const int last_token = min(first_token + kQueries, a.tokens) - 1;
  const int end = min(a.causal ? position + last_token + 1 : position + a.tokens, a.bound);
  const int begin = a.window > 0 ? max(0, position + first_token - a.window + 1) : 0;
  const int first_tile = begin / kTile, tiles = (max(end, 0) + kTile - 1) / kTile;
  const T* keys = a.k + g * a.k_head;
  const T* values = a.v + g * a.v_head;
  const auto load_tile = [&](int tile) {
    const int stage = tile % 2 * kTile * kRow<kHead>;
    load_rows<T, kHead, kTile>(k_shared + stage, keys, a.k_row, tile * kTile, begin, end,
                               a.head_size);
    load_rows<T, kHead, kTile>(v_shared + stage, values, a.v_row, tile * kTile, begin, end,
                               a.head_size);
  };
  load_rows<T, kHead, kQueries>(q_shared, a.q + head * a.q_head, a.q_token, first_token, 0,
                                a.tokens, a.head_size);
  if (first_tile < tiles) load_tile(first_tile);
  cp_async_commit();

  float out[kHead / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};  // rows g and g + 8 of the warp
  std::uint32_t q_fragment[kQInRegisters ? kSteps : 1][4];
  const int quad_row = lane / 4, quad_column = lane % 4 * 2;
  const int first_query = position + first_token + warp * 16 + quad_row;

  for (int tile = first_tile; tile < tiles; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is in, and every warp is done with the stage filled next
    if (tile + 1 < tiles) load_tile(tile + 1);
    cp_async_commit();
    if constexpr (kQInRegisters) {
      if (tile == first_tile) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          ldmatrix_x4(q_fragment[s], a_fragment<T, kHead>(q_shared, warp * 16, s * 16));
        }
      }
    }

    // S = Q · Kᵀ.
    const T* k_tile = k_shared + tile % 2 * kTile * kRow<kHead>;
    float score[kScoreTiles][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if constexpr (!kQInRegisters) {
        ldmatrix_x4(q_fragment[0], a_fragment<T, kHead>(q_shared, warp * 16, s * 16));
      }
#pragma unroll
      for (int n = 0; n < kScoreTiles; n += 2) {
        std::uint32_t b[4];
        ldmatrix_x4(b, k_tile + (n * 8 + lane / 16 * 8 + lane % 8) * kRow<kHead> + s * 16 +
                           lane / 8 % 2 * 8);
        mma_16816<T>(score[n], q_fragment[kQInRegisters ? s : 0], b[0], b[1]);
        mma_16816<T>(score[n + 1], q_fragment[kQInRegisters ? s : 0], b[2], b[3]);
      }
    }

    // Masks, only where an edge crosses the tile.
    const int first_key = tile * kTile, key = first_key + quad_column;
    const bool edge =
        first_key + kTile > end ||
        (a.causal && first_key + kTile - 1 > position + first_token + warp * 16) ||
        (a.window > 0 && first_key <= position + first_token + warp * 16 + 15 - a.window);
    if (edge) {
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = key + n * 8 + i % 2, query = first_query + i / 2 * 8;
          const bool seen =
              j < end && (!a.causal || j <= query) && (a.window == 0 || query - j < a.window);
          if (!seen) score[n][i] = -INFINITY;
        }
      }
    }

    // Online softmax in base 2: a row lies in the four lanes of a quad.
    float rescale[2], shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float greatest = maximum[r];
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
        greatest = fmaxf(greatest, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
      }
      greatest = warp_max<4>(greatest);
      // A row that has seen no key yet keeps −∞ and must not make −∞ − (−∞).
      shift[r] = greatest == -INFINITY ? 0.0f : greatest * a.scale_log2;
      rescale[r] = exp2f(maximum[r] * a.scale_log2 - shift[r]);
      maximum[r] = greatest;
      total[r] *= rescale[r];
    }
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[d][i] *= rescale[i / 2];
    }
#pragma unroll
    for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[n][i] = exp2f(fmaf(score[n][i], a.scale_log2, -shift[i / 2]));
        total[i / 2] += score[n][i];
      }
    }

    add_product<kRow<kHead>>(out, score, v_shared + tile % 2 * kTile * kRow<kHead>);  // O += P · V
  }
  cp_async_wait<0>();

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = warp_sum<4>(total[r]);
    const int token = first_token + warp * 16 + quad_row + r * 8;
    if (token >= a.tokens) continue;
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    T* row = a.out + token * a.out_token + head * a.out_head;
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d) {
      if (d * 8 + quad_column < a.head_size) {
        *reinterpret_cast<std::uint32_t*>(row + d * 8 + quad_column) =
            pack_pair<T>(out[d][2 * r] * inverse, out[d][2 * r + 1] * inverse);
      }
    }
    if (a.lse != nullptr && quad_column == 0) {
      a.lse[head * a.lse_head + token] =
          sum > 0.0f ? (maximum[r] * a.scale_log2 + log2f(sum)) * kLn2 : -INFINITY;
    }
  }
}

template <typename T, int kHead>
void launch_prefill(CudaContext& context, const AttentionCall& call) {
  PrefillArguments<T> a{};
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
  const dim3 grid(to_unsigned((call.q.size(0) + kQueries - 1) / kQueries),
                  to_unsigned(call.q.size(1)));
  launch(context, attention_prefill_kernel<T, kHead>, grid, kThreads, kSharedBytes<kHead>, a);
}

template <typename T>
void pick_head(CudaContext& context, const AttentionCall& call, int bucket) {
  switch (bucket) {
    case 16:
      return launch_prefill<T, 16>(context, call);
    case 32:
      return launch_prefill<T, 32>(context, call);
    case 64:
      return launch_prefill<T, 64>(context, call);
    case 96:
      return launch_prefill<T, 96>(context, call);
    case 128:
      return launch_prefill<T, 128>(context, call);
    case 192:
      return launch_prefill<T, 192>(context, call);
    default:
      return launch_prefill<T, 256>(context, call);
  }
}

}  // namespace

void attention_prefill(CudaContext& context, const AttentionCall& call, const AttentionPlan& plan) {
  if (call.q.dtype == DType::kF16) {
    pick_head<__half>(context, call, plan.head_bucket);
  } else {
    pick_head<__nv_bfloat16>(context, call, plan.head_bucket);
  }
}

}  // namespace engine::cuda
