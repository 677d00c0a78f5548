// Masks and the online softmax on the score fragment of a warpgroup: 64 queries × kKeys keys, in
// each lane rows `lane / 4` and 8 further of its warp, a row in the four lanes of a quad.
#pragma once

#include "kernels/cuda/device/exp2.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"

namespace engine::cuda {

// Which keys a query sees: 0 ≤ j, j ≤ its position where causal, and the last `window` of those
// where window > 0. Applied to a score fragment, as any further function of (query, key) would be.
struct AttentionMask {
  int window;
  bool causal;

  // Whether some query of [query, query + 64) does not see some key of [key, key + keys).
  __device__ bool cuts(int query, int key, int keys) const {
    return key < 0 || (causal && key + keys - 1 > query) ||
           (window > 0 && key <= query + 63 - window);
  }

  // score[4 i + c]: the lane's rows `query` (c < 2) and query + 8, columns key + 8 i + c % 2.
  template <int kCount>
  __device__ void apply(float (&score)[kCount], int query, int key) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int position = query + r * 8;
      // The keys [low, high] are seen; both relative to this lane's first column.
      const int low = max(0, window > 0 ? position - window + 1 : 0) - key;
      const int high = (causal ? position : 0x3fffffff) - key;
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int j = i * 8 + c;
          if (j < low || j > high) score[4 * i + 2 * r + c] = -INFINITY;
        }
      }
    }
  }
};

// The running maximum and sum of a lane's two rows; the sum is the lane's own part of it.
struct OnlineSoftmax {
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // Turns scores into exp2(score · scale − new maximum · scale); `rescale` is what multiplies what
  // was summed before.
  template <int kCount>
  __device__ void update(float (&score)[kCount], float scale_log2, float (&rescale)[2]) {
    float shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float greatest = maximum[r];
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        greatest = fmaxf(greatest, fmaxf(score[4 * i + 2 * r], score[4 * i + 2 * r + 1]));
      }
      greatest = warp_max<4>(greatest);
      // A row that has seen no key yet keeps −∞ and must not make −∞ − (−∞).
      shift[r] = greatest == -INFINITY ? 0.0f : greatest * scale_log2;
      rescale[r] = exp2_approximate(maximum[r] * scale_log2 - shift[r]);
      maximum[r] = greatest;
      total[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = i / 2 % 2;
      score[i] = exp2_approximate(fmaf(score[i], scale_log2, -shift[r]));
      total[r] += score[i];
    }
  }

  // The same for scores in units of log2, relative to `base` of the row in this lane; the maximum
  // is not relative.
  template <int kCount>
  __device__ void update_relative(float (&score)[kCount], const float (&base)[2],
                                  float (&rescale)[2]) {
    float shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float greatest = -INFINITY;
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        greatest = fmaxf(greatest, fmaxf(score[4 * i + 2 * r], score[4 * i + 2 * r + 1]));
      }
      greatest = warp_max<4>(fmaxf(maximum[r], greatest + base[r]));
      const float finite = greatest == -INFINITY ? 0.0f : greatest;
      rescale[r] = exp2_approximate(maximum[r] - finite);
      shift[r] = finite - base[r];
      maximum[r] = greatest;
      total[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = i / 2 % 2;
      score[i] = exp2_approximate(score[i] - shift[r]);
      total[r] += score[i];
    }
  }
};

// Scores rounded to T: the A fragments of kCount / 8 products of 16 keys each.
template <typename T, int kCount>
__device__ void pack_probabilities(const float (&score)[kCount],
                                   std::uint32_t (&p)[kCount / 8][4]) {
#pragma unroll
  for (int s = 0; s < kCount / 8; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[s][i] = pack_pair<T>(score[8 * s + 2 * i], score[8 * s + 2 * i + 1]);
    }
  }
}

}  // namespace engine::cuda
