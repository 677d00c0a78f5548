// The backward of attention on CUDA: what its kernels are told, and its launchers. No CUDA here.
//
// With y the score function's value of scale · q[i, h] · k[j, g] and y′ its derivative,
// P = exp(y − lse[i, h]) where i sees j, else 0, and
// δ[i, h] = Σ_d dO[i, h, d] · O[i, h, d]:
//   dV[j, g] = Σ_h Σ_i P dO[i, h]                 over the heads h of group g
//   dS = P · (dO[i, h] · v[j, g] − δ[i, h]) · y′
//   dQ[i, h] = scale · Σ_j dS k[j, g]             dK[j, g] = scale · Σ_h Σ_i dS q[i, h]
// (Dao, "FlashAttention-2", 2023, algorithm 2). Rows that see no key have lse = −∞ and get zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/score_function.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/context.h"

namespace engine::cuda {

// A tensor (batch, rows, heads, Dh) of dense innermost rows; strides count elements. Of a ragged
// batch the rows of all sequences lie one after the other and `batch` is 0.
struct AttentionRows {
  void* data = nullptr;
  std::int64_t batch = 0, row = 0, head = 0;
};

struct AttentionBackwardCall {
  DType dtype = DType::kBF16;
  AttentionRows q, k, v, out, dout;  // read
  AttentionRows dq, dk, dv;          // written
  const float* lse = nullptr;        // natural log, as attention leaves it
  std::int64_t lse_batch = 0, lse_head = 0, lse_row = 1;
  // Device, (batch + 1) cumulative rows of a ragged batch, or null.
  const int* query_offsets = nullptr;
  const int* key_offsets = nullptr;
  std::int64_t batch = 1, heads = 1, kv_heads = 1, head_size = 128;
  std::int64_t queries = 0, keys = 0;           // of a sequence, of a ragged batch the most
  std::int64_t query_total = 0, key_total = 0;  // rows of a ragged batch
  float scale = 1.0f;
  // Query i of a sequence stands at position i + position[0] (device; null: 0); the rule says what
  // it sees and what becomes of a score.
  const int* position = nullptr;
  ScoreRule rule;
  // Same bits on every run; otherwise the additions to dQ come in any order.
  bool deterministic = true;
};

// Queries of a tile whose rows of statistics, and of kSm90's sums, lie together.
inline constexpr std::int64_t kBackwardQueryTile = 64;

// Scratch: (2, heads, rows) fp32: the score's offset − lse in units of log2, then −δ; rows of every
// sequence start on a tile. kSm90 goes on with (heads, tiles, 64, head_bucket) fp32 sums of dQ,
// (heads, tiles, 2) counters, and a counter of blocks.
struct BackwardScratch {
  float* minus_lse = nullptr;
  float* minus_delta = nullptr;
  float* dq = nullptr;
  std::uint32_t* counters = nullptr;
  std::int64_t tiles = 0;  // of a head, over all sequences
  std::int64_t counter_count = 0;
};
std::int64_t backward_tiles(const AttentionBackwardCall& call);
BackwardScratch backward_scratch(const AttentionBackwardCall& call,
                                 const AttentionBackwardPlan& plan, void* scratch);
std::size_t backward_scratch_bytes(const AttentionBackwardCall& call,
                                   const AttentionBackwardPlan& plan);

// Everything: statistics, products, conversion. `scratch` has backward_scratch_bytes on a
// multiple of 256.
void attention_backward(CudaContext& context, const AttentionBackwardCall& call,
                        const AttentionBackwardPlan& plan, void* scratch);

// Its parts. The statistics, and zeros in what kSm90 adds to.
void attention_backward_rows(CudaContext& context, const AttentionBackwardCall& call,
                             const AttentionBackwardPlan& plan, const BackwardScratch& scratch);
// dQ from kSm90's sums.
void attention_backward_convert(CudaContext& context, const AttentionBackwardCall& call,
                                const AttentionBackwardPlan& plan, const BackwardScratch& scratch);
// kSm90: bf16 of ScoreForm::kOffset, of the others, and f16.
void sm90_attention_backward_bf16(CudaContext& context, const AttentionBackwardCall& call,
                                  const AttentionBackwardPlan& plan,
                                  const BackwardScratch& scratch);
void sm90_attention_backward_scores(CudaContext& context, const AttentionBackwardCall& call,
                                    const AttentionBackwardPlan& plan,
                                    const BackwardScratch& scratch);
void sm90_attention_backward_f16(CudaContext& context, const AttentionBackwardCall& call,
                                 const AttentionBackwardPlan& plan, const BackwardScratch& scratch);
// kTiles.
void attention_backward_tiles_bf16(CudaContext& context, const AttentionBackwardCall& call,
                                   const AttentionBackwardPlan& plan,
                                   const BackwardScratch& scratch);
void attention_backward_tiles_f16(CudaContext& context, const AttentionBackwardCall& call,
                                  const AttentionBackwardPlan& plan,
                                  const BackwardScratch& scratch);
void attention_backward_plain(CudaContext& context, const AttentionBackwardCall& call,
                              const BackwardScratch& scratch);

}  // namespace engine::cuda
