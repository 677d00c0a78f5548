// The product of row_product.h for many rows on tensor cores: 16-bit x, weights of x's type or
// int8, fp32 accumulation. int8 becomes x's type on its way into shared memory, exactly, as |q| ≤
// 128; the scale multiplies the finished sum.
//
// Layout: x rows gathered by the tile's list, W (N, K) row-major. A block of 8 warps computes
// kRowTile rows × kOutputTile outputs in steps of kStep of K; a warp 32 × 32 of them. The next step
// is read into registers while the tensor cores work on this one; shared memory holds two steps, so
// one barrier a step is enough: a buffer is written again only after the barrier of the step
// between, which every warp passes with its reads done. Limit: tensor-core multiply-adds.
#include <algorithm>

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/row_product.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kOutputTile = 128, kStep = 32;
// 80 bytes a row: an odd number of 16-byte units, so that ldmatrix meets no bank twice.
constexpr int kStride = kStep + 8;

// A thread's share of a step: kCount vectors of a row-major matrix (`rows` of them), thread i
// having row i / (threads a row), and its place in the shared tile.
template <typename E, int kTileRows>
struct TilePart {
  static constexpr int kPer = kPerVector<E>;
  static constexpr int kPerRow = kStep / kPer;  // threads a row
  static constexpr int kCount = kTileRows * kPerRow / kThreads;
  static constexpr int kRowsApart = kThreads / kPerRow;
  static_assert(kCount >= 1 && kTileRows * kPerRow % kThreads == 0);
  static __device__ int row(int i) {
    return static_cast<int>(threadIdx.x) / kPerRow + i * kRowsApart;
  }
  static __device__ int column() { return static_cast<int>(threadIdx.x) % kPerRow * kPer; }
};

// The vector at column k of a row of K elements; zeros where the row is null and past its end. With
// kVector K is a multiple of the vector.
template <bool kVector, typename E>
__device__ uint4 load_piece(const E* row, std::int64_t k, std::int64_t columns) {
  if (row == nullptr || k >= columns) return make_uint4(0, 0, 0, 0);
  if constexpr (kVector) {
    return load_vector(row + k);
  } else {
    const std::int64_t left = columns - k;
    return load_elements(row + k, static_cast<int>(left < kPerVector<E> ? left : kPerVector<E>));
  }
}

// One 16-byte piece of a row of weights into shared memory as elements of T.
template <typename T, typename W>
__device__ void store_piece(T* to, uint4 raw) {
  if constexpr (std::is_same_v<W, T>) {
    store_vector(to, raw);
  } else {
    float value[16];
    unpack<W>(raw, value);
    std::uint32_t pairs[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) pairs[i] = pack_pair<T>(value[2 * i], value[2 * i + 1]);
    store_vector(to, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
    store_vector(to + 8, make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]));
  }
}

// c (32 × 32 of the warp) += x (32 × kStep) · Wᵀ (kStep × 32).
template <typename T>
__device__ void multiply_step(float (&c)[2][4][4], const T* x,  // (32, kStride)
                              const T* weight) {                // (32, kStride)
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < kStep; k += 16) {
    std::uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      ldmatrix_x4(a[i], x + (i * 16 + lane % 16) * kStride + k + lane / 16 * 8);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {  // 16 outputs: b[j] = {k, k + 8 of the first 8, of the second 8}
      ldmatrix_x4(b[j],
                  weight + (j * 16 + lane / 16 * 8 + lane % 8) * kStride + k + lane / 8 % 2 * 8);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mma_16816<T>(c[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

template <typename T, typename W, bool kVector>
__global__ void __launch_bounds__(kThreads) row_product_mma_kernel(const RowProduct p) {
  using XPart = TilePart<T, kRowTile>;
  using WPart = TilePart<W, kOutputTile>;
  __shared__ __align__(16) T x_tile[2][kRowTile * kStride];
  __shared__ __align__(16) T w_tile[2][kOutputTile * kStride];
  __shared__ std::int32_t rows[kRowTile];
  pdl_launch_dependents();
  pdl_wait();
  const std::int32_t expert = tile_rows(p, static_cast<std::int32_t>(blockIdx.x), rows);
  __syncthreads();          // the list of rows is complete
  if (rows[0] < 0) return;  // an empty tile, for the whole block

  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kOutputTile;
  const std::int64_t base = expert * p.outputs;
  const T* x[XPart::kCount];
  const W* weight[WPart::kCount];
#pragma unroll
  for (int i = 0; i < XPart::kCount; ++i) {
    const std::int32_t row = rows[XPart::row(i)];
    x[i] = row < 0 ? nullptr : x_row<T>(p, row);
  }
#pragma unroll
  for (int i = 0; i < WPart::kCount; ++i) {
    const std::int64_t n = first + WPart::row(i);
    weight[i] = n < p.outputs ? static_cast<const W*>(p.weight) + (base + n) * p.columns : nullptr;
  }
  uint4 x_raw[XPart::kCount], w_raw[WPart::kCount];
  const auto fetch = [&](std::int64_t k) {
#pragma unroll
    for (int i = 0; i < XPart::kCount; ++i) {
      x_raw[i] = load_piece<kVector>(x[i], k + XPart::column(), p.columns);
    }
#pragma unroll
    for (int i = 0; i < WPart::kCount; ++i) {
      w_raw[i] = load_piece<kVector>(weight[i], k + WPart::column(), p.columns);
    }
  };

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = warp / 4 * 32, warp_output = warp % 4 * 32;
  float c[2][4][4] = {};
  int buffer = 0;
  fetch(0);
  for (std::int64_t k = 0; k < p.columns; k += kStep) {
#pragma unroll
    for (int i = 0; i < XPart::kCount; ++i) {
      store_vector(x_tile[buffer] + XPart::row(i) * kStride + XPart::column(), x_raw[i]);
    }
#pragma unroll
    for (int i = 0; i < WPart::kCount; ++i) {
      store_piece<T, W>(w_tile[buffer] + WPart::row(i) * kStride + WPart::column(), w_raw[i]);
    }
    __syncthreads();  // this step's tiles are complete
    fetch(k + kStep);
    multiply_step(c, x_tile[buffer] + warp_row * kStride, w_tile[buffer] + warp_output * kStride);
    buffer ^= 1;
  }

  // Lane (g, q) holds rows g, g + 8 and outputs 2q, 2q + 1 of each 16 × 8 piece.
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::int64_t n = first + warp_output + j * 8 + lane % 4 * 2 + e % 2;
      if (n >= p.outputs) continue;
      const float scale = weight_scale<W>(p, base + n);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::int32_t row = rows[warp_row + i * 16 + lane / 4 + e / 2 * 8];
        if (row >= 0) store_sum<T>(p, row, n, c[i][j][e], scale);
      }
    }
  }
}

template <typename T, typename W>
void launch_product(CudaContext& context, const RowProduct& p) {
  const dim3 grid(to_unsigned(p.tiles), to_unsigned((p.outputs + kOutputTile - 1) / kOutputTile));
  // kVector asks that K be a multiple of both vectors.
  constexpr std::int64_t kBoth = std::max(kPerVector<T>, kPerVector<W>);
  if (p.aligned && p.columns % kBoth == 0) {
    launch(context, row_product_mma_kernel<T, W, true>, grid, kThreads, 0, p);
  } else {
    launch(context, row_product_mma_kernel<T, W, false>, grid, kThreads, 0, p);
  }
}

template <typename T>
void pick_weight(CudaContext& context, const RowProduct& product, QuantFormat weight) {
  if (weight == QuantFormat::kInt8) {
    launch_product<T, std::int8_t>(context, product);
  } else {
    launch_product<T, T>(context, product);
  }
}

}  // namespace

void row_product_mma(CudaContext& context, const RowProduct& product, DType x, QuantFormat weight) {
  ENGINE_REQUIRE(x != DType::kF32 && (weight == QuantFormat::kInt8 || weight == plain_format(x)),
                 "row_product_mma: ", format_info(weight).name, " weights by ", x);
  if (x == DType::kF16) {
    pick_weight<__half>(context, product, weight);
  } else {
    pick_weight<__nv_bfloat16>(context, product, weight);
  }
}

}  // namespace engine::cuda
