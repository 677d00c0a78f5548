// The matrix-vector product behind every linear of a decode step.
//
//   y[t, r] = Σ_k x[t, k] · W[r, k]   for the rows r of this block and kTokens tokens
//
// Limit: the bytes of W, read once. Layout: W row-major (N, K), x (T, K).
// Who computes what: a block owns a range of rows. Seen as one stream of chunks (32 lanes × 16
// bytes of a row), its rows are cut into 16 equal parts, one a warp, so that no warp waits for
// another's last row. A lane keeps kDepth 16-byte loads in flight; the first kDepth are issued
// before pdl_wait, so weights already move while the kernel before this one drains. A row that
// crosses warps is summed from the warps' parts in their order: no atomics, the same bits on every
// run.
//
// A Problem supplies what differs between the ops:
//   weight, columns, token_count        W, K and the T ≤ kTokens tokens that exist
//   units, rows_per_unit                 what is shared out among blocks
//   weight_row(unit, i)                  the row of W that is row i of the unit
//   kNorm, prepare(...)                  how the block's copy of x comes about
//   finish(first_unit, rows, y)          what becomes of the sums
#pragma once

#include <cstdint>

#include "kernels/cuda/choose.h"
#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"

namespace engine::cuda {

inline constexpr int kGemvWarps = kGemvThreads / 32;

// x of a linear: a plain copy into shared memory, rows padded with zeros to `padded` elements.
template <typename T, int kTokens, bool kVector>
__device__ void gemv_copy_x(T* x_shared, const T* x, std::int64_t stride, int tokens, int columns,
                            int padded) {
  constexpr int kPer = kPerVector<T>;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int k = static_cast<int>(threadIdx.x) * kPer; k < padded; k += kGemvThreads * kPer) {
      uint4 raw = make_uint4(0, 0, 0, 0);
      if (t < tokens && k < columns) {
        const T* source = x + t * stride + k;
        raw = kVector ? load_vector(source) : load_elements(source, columns - k);
      }
      store_vector(x_shared + t * padded + k, raw);
    }
  }
}

// One token's x normalised as op rmsnorm does: round(round(x ÷ √(mean(x²) + eps)) · weight).
// `norm_shared` holds the norm's weights, zero-padded; `partial` 32 floats.
template <typename T, bool kVector>
__device__ void gemv_normalise_x(T* x_shared, const T* norm_shared, float* partial, const T* x,
                                 float eps, int columns, int padded) {
  constexpr int kPer = kPerVector<T>;
  gemv_copy_x<T, 1, kVector>(x_shared, x, 0, 1, columns, padded);
  // Each thread reads back only what it wrote itself: no barrier needed here.
  float squares = 0.0f, value[kPer], weight[kPer];
  for (int k = static_cast<int>(threadIdx.x) * kPer; k < padded; k += kGemvThreads * kPer) {
    unpack<T>(load_vector(x_shared + k), value);
#pragma unroll
    for (int i = 0; i < kPer; ++i) squares += value[i] * value[i];
  }
  squares = block_reduce(squares, partial, 0.0f, SumOp{});
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(columns) + eps);
  for (int k = static_cast<int>(threadIdx.x) * kPer; k < padded; k += kGemvThreads * kPer) {
    unpack<T>(load_vector(x_shared + k), value);
    unpack<T>(load_vector(norm_shared + k), weight);
#pragma unroll
    for (int i = 0; i < kPer; ++i) value[i] = round_to<T>(value[i] * scale) * weight[i];
    store_vector(x_shared + k, pack<T>(value));
  }
}

// A lane's way through the chunks of its warp, filling the ring. Every lane reads back only the 16
// bytes that it copied itself, so the copies need no barrier, just the wait for the oldest group.
template <typename T, bool kVector, typename Problem>
struct WeightStream {
  const Problem& problem;
  uint4* ring;                   // this lane's place in slot 0
  int first_unit, row, k, left;  // left: chunks still to be asked for
  const T* address;

  __device__ WeightStream(const Problem& p, uint4* place, int unit, int begin, int end, int chunks)
      : problem(p), ring(place), first_unit(unit), row(begin / chunks), left(end - begin) {
    k = (begin % chunks * 32 + static_cast<int>(threadIdx.x) % 32) * kPerVector<T>;
    seek();
  }
  __device__ void seek() {
    constexpr int kUnit = Problem::kRowsPerUnit;
    // Past the warp's end nothing is read: any address will do.
    const int at = left > 0 ? problem.weight_row(first_unit + row / kUnit, row % kUnit) : 0;
    address = problem.weight + static_cast<std::int64_t>(at) * problem.columns + k;
  }
  // Asks for the lane's vector of the next chunk, zeros past the row's end; one group a call.
  __device__ void push(int slot, int padded) {
    const bool valid = left > 0 && k < problem.columns;
    if constexpr (kVector) {
      cp_async_16(ring + slot * 32, valid ? address : problem.weight, valid);
      cp_async_commit();
    } else {
      store_vector(ring + slot * 32, load_elements(address, valid ? problem.columns - k : 0));
    }
    --left;
    address += 32 * kPerVector<T>;
    k += 32 * kPerVector<T>;
    if (k >= padded) {
      k -= padded;
      ++row;
      seek();
    }
  }
};

template <typename T, int kTokens, bool kVector, typename Problem>
__global__ void __launch_bounds__(kGemvThreads, 2) gemv_kernel(const Problem problem) {
  constexpr int kPer = kPerVector<T>, kDepth = kGemvDepth;
  extern __shared__ uint4 shared[];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int chunks = (problem.columns + 32 * kPer - 1) / (32 * kPer);
  const int padded = chunks * 32 * kPer;
  uint4* ring = shared + warp * kDepth * 32 + lane;                       // (kDepth, 32) a warp
  T* x_shared = reinterpret_cast<T*>(shared + kGemvWarps * kDepth * 32);  // (kTokens, padded)
  T* norm_shared = x_shared + kTokens * padded;                           // (padded), kNorm only
  float* edges = reinterpret_cast<float*>(norm_shared + (Problem::kNorm ? padded : 0));
  float* sums = edges + kGemvWarps * 2 * kTokens;  // (rows, kTokens)

  // The rows of this block, and the chunks of this warp.
  const auto share = [&](std::int64_t part) {
    return static_cast<int>(part * problem.units / static_cast<std::int64_t>(gridDim.x));
  };
  const int first_unit = share(blockIdx.x);
  const int rows = (share(blockIdx.x + 1) - first_unit) * Problem::kRowsPerUnit;
  const auto warp_begin = [&](int w) {
    return static_cast<int>(static_cast<std::int64_t>(rows) * chunks * w / kGemvWarps);
  };
  const int begin = warp_begin(warp), end = warp_begin(warp + 1);

  // Weights first: they depend on no earlier kernel.
  WeightStream<T, kVector, Problem> stream(problem, ring, first_unit, begin, end, chunks);
#pragma unroll
  for (int i = 0; i < kDepth; ++i) stream.push(i, padded);
  problem.before_wait(norm_shared, padded);
  pdl_wait();
  problem.prepare(x_shared, norm_shared, edges, padded);
  __syncthreads();  // x is complete

  float sum[kTokens][2] = {};
  int row = begin / chunks, chunk = begin % chunks;
  bool from_start = chunk == 0;  // whether this warp began the current row
  const auto flush = [&](bool to_end) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float total = warp_sum(sum[t][0] + sum[t][1]);
      float* place = from_start && to_end ? sums + row * kTokens
                                          : edges + (warp * 2 + (from_start ? 1 : 0)) * kTokens;
      if (lane == 0) place[t] = total;
      sum[t][0] = sum[t][1] = 0.0f;
    }
  };
  for (int step = begin; step < end; step += kDepth) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (step + i < end) {
        if constexpr (kVector) cp_async_wait<kDepth - 1>();  // the oldest group is in
        float weight[kPer], value[kPer];
        unpack<T>(load_vector(ring + i * 32), weight);
        const T* x_lane = x_shared + (chunk * 32 + lane) * kPer;
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          unpack<T>(load_vector(x_lane + t * padded), value);
#pragma unroll
          for (int j = 0; j < kPer; ++j) {
            sum[t][j % 2] = fmaf(weight[j], value[j], sum[t][j % 2]);
          }
        }
        stream.push(i, padded);
        if (++chunk == chunks) {
          flush(true);
          chunk = 0;
          ++row;
          from_start = true;
        }
      }
    }
  }
  if (begin < end && chunk != 0) flush(false);
  // Not before the stream is through: blocks that start too soon take places unevenly.
  pdl_launch_dependents();
  __syncthreads();  // all parts are in

  // Rows that cross warps: the part that began the row, then those that went on with it.
  for (int i = static_cast<int>(threadIdx.x); i < rows * kTokens; i += kGemvThreads) {
    const int r = i / kTokens, t = i % kTokens, row_begin = r * chunks,
              row_end = row_begin + chunks;
    float total = 0.0f;
    bool crosses = false;
    for (int w = 0; w < kGemvWarps; ++w) {
      const int from = warp_begin(w), to = warp_begin(w + 1);
      if (from >= to || to <= row_begin || from >= row_end) continue;
      if (from <= row_begin && to >= row_end) break;  // one warp had it whole
      crosses = true;
      total += edges[(w * 2 + (from <= row_begin ? 1 : 0)) * kTokens + t];
    }
    if (crosses) sums[i] = total;
  }
  __syncthreads();  // all sums are final
  problem.finish(first_unit, rows, sums);
}

}  // namespace engine::cuda
