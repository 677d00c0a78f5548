// What score functions do to the score fragment of a warpgroup (64 queries × kKeys keys) before the
// online softmax, one struct for each form that a row of the table of score functions may have.
//
// In each lane rows r = 0, 1 are `row` and 8 further of the group, column 8 i + c + lane % 4 * 2 is
// element 4 i + 2 r + c. `soften` turns the scores of the tile from `key` on into weights; a
// maximum times lse_factor(), and the sum, give the log-sum-exp in base 2.
#pragma once

#include "kernels/cuda/attention_batch.cuh"
#include "kernels/cuda/sm90_attention_softmax.cuh"

namespace engine::cuda {

// The keys that a lane's two rows see.
template <typename Tile>
struct IntervalMask {
  KeyInterval seen[2];
  int low, high;  // every query of the group sees the keys [low, high)

  __device__ IntervalMask(const AttentionBatchArguments& a, int group_query, int row, int keys) {
#pragma unroll
    for (int r = 0; r < 2; ++r) seen[r] = a.seen(row + r * 8, keys);
    low = a.seen(group_query + 63, keys).begin;
    high = a.seen(group_query, keys).end;
  }
  __device__ __forceinline__ void apply(float (&score)[Tile::kScoreRegisters], int key) const {
    if (key >= low && key + Tile::kKeys <= high) return;
    const int first = key + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int begin = seen[r].begin - first, end = seen[r].end - first;
#pragma unroll
      for (int i = 0; i < Tile::kKeys / 8; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (i * 8 + c < begin || i * 8 + c >= end) score[4 * i + 2 * r + c] = -INFINITY;
        }
      }
    }
  }
};

// Scores as they are but for a constant of the row, which moves the log-sum-exp alone.
template <typename Tile>
struct OffsetScores {
  IntervalMask<Tile> mask;
  float scale_log2;

  __device__ OffsetScores(const AttentionBatchArguments& a, int, int group_query, int row, int keys)
      : mask(a, group_query, row, keys), scale_log2(a.scale * kLog2OfE) {}
  __device__ static float lse_factor(const AttentionBatchArguments& a) {
    return a.scale * kLog2OfE;
  }
  __device__ __forceinline__ void soften(float (&score)[Tile::kScoreRegisters], int key,
                                         OnlineSoftmax& softmax, float (&rescale)[2]) const {
    mask.apply(score, key);
    softmax.update(score, scale_log2, rescale);
  }
};

// Scores plus slope · (q − k). A score is kept relative to its lane's first column, so that the
// share of the other columns is the addend of the multiplication by the scale.
template <typename Tile, bool kUnit>
struct SlopeScores {
  IntervalMask<Tile> mask;
  int row;
  float scale_log2, slope_log2;

  __device__ SlopeScores(const AttentionBatchArguments& a, int head, int group_query, int at,
                         int keys)
      : mask(a, group_query, at, keys),
        row(at),
        scale_log2(a.scale * kLog2OfE),
        slope_log2(kUnit ? kLog2OfE : score_slope(a.rule, head) * kLog2OfE) {}
  __device__ static float lse_factor(const AttentionBatchArguments&) { return 1.0f; }
  __device__ __forceinline__ void soften(float (&score)[Tile::kScoreRegisters], int key,
                                         OnlineSoftmax& softmax, float (&rescale)[2]) const {
    const float slope = kUnit ? kLog2OfE : slope_log2;
    const int first = key + static_cast<int>(threadIdx.x) % 4 * 2;
    const float base[2] = {static_cast<float>(row - first) * slope,
                           static_cast<float>(row + 8 - first) * slope};
#pragma unroll
    for (int i = 0; i < Tile::kScoreRegisters; ++i) {
      score[i] = fmaf(score[i], scale_log2, -slope * static_cast<float>(i / 4 * 8 + i % 2));
    }
    mask.apply(score, key);
    softmax.update_relative(score, base, rescale);
  }
};
template <typename Tile>
using UnitSlopeScores = SlopeScores<Tile, true>;
template <typename Tile>
using AnySlopeScores = SlopeScores<Tile, false>;

// Scores that a function of the score alone replaces.
template <typename Tile>
struct FreeScores {
  IntervalMask<Tile> mask;
  const ScoreRule& rule;
  float scale;

  __device__ FreeScores(const AttentionBatchArguments& a, int, int group_query, int row, int keys)
      : mask(a, group_query, row, keys), rule(a.rule), scale(a.scale) {}
  __device__ static float lse_factor(const AttentionBatchArguments&) { return kLog2OfE; }
  __device__ __forceinline__ void soften(float (&score)[Tile::kScoreRegisters], int key,
                                         OnlineSoftmax& softmax, float (&rescale)[2]) const {
    visit_score(rule.kind, [&](auto row) {
      if constexpr (!decltype(row)::kAffine) {
#pragma unroll
        for (int i = 0; i < Tile::kScoreRegisters; ++i) {
          score[i] = decltype(row)::value(rule, score[i] * scale);
        }
      }
    });
    mask.apply(score, key);
    softmax.update(score, kLog2OfE, rescale);
  }
};

}  // namespace engine::cuda
