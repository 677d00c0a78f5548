// A consumer warpgroup of Hopper's flash attention: 64 queries against all of their keys.
//
// The products of tile i + 1's scores and of tile i's values are issued together, and the softmax
// of tile i + 1 runs while the values' product does; the groups take turns at issuing, so that one
// group's softmax falls into another's products.
#pragma once

#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/quad.cuh"
#include "kernels/cuda/device/wgmma_attention.cuh"
#include "kernels/cuda/sm90_attention.cuh"
#include "kernels/cuda/sm90_attention_softmax.cuh"

namespace engine::cuda {

// Named barriers: kTurn + group is the group's turn to issue, kZeroed + group its own.
inline constexpr int kTurn = 1, kZeroed = 4;

// score = Q · Kᵀ of the group's 64 queries, q and k being shared addresses.
template <typename T, typename Tile>
__device__ __forceinline__ void score_product(float (&score)[Tile::kScoreRegisters],
                                              std::uint32_t q, std::uint32_t k) {
#pragma unroll
  for (int s = 0; s < Tile::kHead / 16; ++s) {
    const std::uint32_t column = static_cast<std::uint32_t>(s % 4) * 32;
    const auto block = static_cast<std::uint32_t>(s / 4);
    const std::uint64_t a = wgmma_descriptor(q + block * Tile::kQueryBlockBytes + column, 16);
    const std::uint64_t b = wgmma_descriptor(k + block * Tile::kKeyBlockBytes + column, 16);
    if constexpr (Tile::kKeys == 128) {
      wgmma_n128_ss<T>(score, a, b, s > 0);
    } else {
      wgmma_n64_ss<T>(score, a, b, s > 0);
    }
  }
}

// out += P · V.
template <typename T, typename Tile>
__device__ __forceinline__ void value_product(AttentionSums<Tile>& out,
                                              const std::uint32_t (&p)[Tile::kKeys / 16][4],
                                              std::uint32_t v) {
#pragma unroll
  for (int s = 0; s < Tile::kKeys / 16; ++s) {
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
      const int offset = part * (Tile::kPartColumns / 64) * Tile::kKeyBlockBytes + s * 2048;
      const std::uint64_t rows =
          wgmma_descriptor(v + static_cast<std::uint32_t>(offset), Tile::kKeyBlockBytes);
      if constexpr (Tile::kPartColumns == 128) {
        wgmma_n128_rs<T>(out[part], p[s], rows);
      } else {
        wgmma_n64_rs<T>(out[part], p[s], rows);
      }
    }
  }
}

template <typename Tile>
__device__ __forceinline__ void hold_sums(AttentionSums<Tile>& out) {
#pragma unroll
  for (int part = 0; part < Tile::kParts; ++part) wgmma_hold(out[part]);
}

// Zeros the first `rows` rows of a tile of V: keys that no query of the block sees may hold
// anything, and 0 · NaN is NaN. Each group does so for itself and waits for its own threads only.
template <typename Tile>
__device__ void zero_rows(std::uint8_t* v, int rows, int group) {
  const int row = static_cast<int>(threadIdx.x) % 128;
  if (row < rows) {
    for (int i = 0; i < Tile::kBlocks * 8; ++i) {
      store_vector(v + i / 8 * Tile::kKeyBlockBytes + row * 128 + i % 8 * 16, uint4{});
    }
  }
  fence_async_shared();
  named_barrier_sync(kZeroed + group, 128);
}

// What a consumer keeps from item to item.
template <typename Tile>
struct ConsumerState {
  RingPlace<Tile::kStages> k, v;
  RingPlace<Tile::kQueryStages> q;
  int group;

  // Every warp says so once it has read a slot.
  __device__ void release(std::uint64_t* barrier) const {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(barrier);
  }
};

// What a model's prefill does to the scores of a tile: masks, then the softmax.
template <typename Tile>
struct PrefillScores {
  AttentionMask mask;
  int group_query, row;
  float scale_log2;

  __device__ PrefillScores(const Sm90AttentionArguments& a, const AttentionItem& item, int group)
      : mask{a.window, a.causal}, scale_log2(a.scale_log2) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    group_query = item.first_query + group * 64;
    row = group_query + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane / 4;
  }
  // `key`: the tile's first.
  __device__ __forceinline__ void soften(float (&score)[Tile::kScoreRegisters], int key,
                                         OnlineSoftmax& softmax, float (&rescale)[2]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (mask.cuts(group_query, key, Tile::kKeys)) mask.apply(score, row, key + lane % 4 * 2);
    softmax.update(score, scale_log2, rescale);
  }
};

// All tiles of an item (one at least): out and softmax hold the sums. `scores` turns the scores of
// a tile into weights.
template <typename T, typename Tile, typename Item, typename Scores>
__device__ __forceinline__ void attend(const Scores& scores, const AttentionShared<Tile>& shared,
                                       const Item& item, ConsumerState<Tile>& state,
                                       AttentionSums<Tile>& out, OnlineSoftmax& softmax) {
  const std::uint32_t q = shared_address(shared.q + state.q.slot * Tile::kQueryBytes) +
                          static_cast<std::uint32_t>(state.group) * 64 * 128;
  float score[Tile::kScoreRegisters], rescale[2];
  std::uint32_t p[Tile::kKeys / 16][4];

  const auto wait_keys = [&](int tile) {
    if (tile < item.tiles) mbarrier_wait(shared.k_full + state.k.slot, state.k.parity);
  };

  mbarrier_wait(shared.q_full + state.q.slot, state.q.parity);
  wait_keys(0);
  wgmma_fence();
  score_product<T, Tile>(score, q, shared_address(shared.k + state.k.slot * Tile::kKeyBytes));
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_hold(score);
  state.release(shared.k_empty + state.k.slot);
  state.k.advance();
  scores.soften(score, item.template first_key<Tile>(0), softmax, rescale);
  pack_probabilities<T>(score, p);
  wait_keys(1);

  for (int tile = 1; tile < item.tiles; ++tile) {
    named_barrier_sync(kTurn + state.group, 256);
    hold_sums<Tile>(out);
    wgmma_fence();
    score_product<T, Tile>(score, q, shared_address(shared.k + state.k.slot * Tile::kKeyBytes));
    wgmma_commit();
    mbarrier_wait(shared.v_full + state.v.slot, state.v.parity);
    wgmma_fence();
    value_product<T, Tile>(out, p, shared_address(shared.v + state.v.slot * Tile::kKeyBytes));
    wgmma_commit();
    named_barrier_arrive(kTurn + (state.group + 1) % Tile::kGroups, 256);
    wgmma_wait<1>();
    wgmma_hold(score);
    state.release(shared.k_empty + state.k.slot);
    state.k.advance();
    scores.soften(score, item.template first_key<Tile>(tile), softmax, rescale);
    // The softmax ends here, beside the values' product: neither compiler moves it past a loop.
    wgmma_hold(score);
    wait_keys(tile + 1);
    wgmma_wait<0>();
    hold_sums<Tile>(out);
    state.release(shared.v_empty + state.v.slot);
    state.v.advance();
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
#pragma unroll
      for (int i = 0; i < Tile::kPartRegisters; ++i) out[part][i] *= rescale[i / 2 % 2];
    }
    pack_probabilities<T>(score, p);
  }
  state.release(shared.q_empty + state.q.slot);
  state.q.advance();

  mbarrier_wait(shared.v_full + state.v.slot, state.v.parity);
  std::uint8_t* v = shared.v + state.v.slot * Tile::kKeyBytes;
  const int unseen = item.begin - item.template first_key<Tile>(item.tiles - 1);
  if (item.has_rows_before() && unseen > 0) zero_rows<Tile>(v, unseen, state.group);
  hold_sums<Tile>(out);
  wgmma_fence();
  value_product<T, Tile>(out, p, shared_address(v));
  wgmma_commit();
  wgmma_wait<0>();
  hold_sums<Tile>(out);
  state.release(shared.v_empty + state.v.slot);
  state.v.advance();
}

// Where a model's prefill writes: row `token` of one head, and its log-sum-exp.
struct PrefillRows {
  const Sm90AttentionArguments& a;
  const AttentionItem& item;

  __device__ int first_row() const { return item.first_token; }
  __device__ int rows() const { return a.tokens; }
  __device__ int head_size() const { return a.head_size; }
  template <typename T>
  __device__ T* row(int token) const {
    return static_cast<T*>(a.out) + token * a.out_token + item.head * a.out_head;
  }
  __device__ bool wants_lse() const { return a.lse != nullptr; }
  __device__ float* lse(int token) const { return a.lse + item.head * a.lse_head + token; }
  __device__ float natural_lse(float maximum, float sum) const {
    constexpr float kLn2 = 0.6931471805599453f;
    return (maximum * a.scale_log2 + log2f(sum)) * kLn2;
  }
};

// Divides by the sums and writes the rows, 16 bytes a lane.
template <typename T, typename Tile, typename Rows>
__device__ __forceinline__ void write_item(const Rows& target, int group,
                                           const AttentionSums<Tile>& out,
                                           const OnlineSoftmax& softmax) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = warp_sum<4>(softmax.total[r]);
    const int token = target.first_row() + group * 64 + warp * 16 + lane / 4 + r * 8;
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    T* row = target.template row<T>(token);
#pragma unroll
    for (int d = 0; d < Tile::kHead / 32; ++d) {
      std::uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        constexpr int kTiles = Tile::kPartColumns / 8;
        const float* pair = out[(4 * d + i) / kTiles] + (4 * d + i) % kTiles * 4 + 2 * r;
        word[i] = pack_pair<T>(pair[0] * inverse, pair[1] * inverse);
      }
      transpose_quad(word);
      const int column = d * 32 + lane % 4 * 8;
      if (token < target.rows() && column < target.head_size()) {
        store_vector(row + column, uint4{word[0], word[1], word[2], word[3]});
      }
    }
    if (target.wants_lse() && token < target.rows() && lane % 4 == 0) {
      *target.lse(token) = sum > 0.0f ? target.natural_lse(softmax.maximum[r], sum) : -INFINITY;
    }
  }
}

}  // namespace engine::cuda
