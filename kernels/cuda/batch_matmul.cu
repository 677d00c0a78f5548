// batch_matmul: many products of small matrices, out[n, m] = scale · a[n, m] · b[n, m](ᵀ).
//
// Layout: a (N, M, X, K), b (N, M, Y, K) or (N, M, K, Y), out (N, M, X, Y), all strided. Who
// computes what, 16-bit types with 16-byte rows: a block of 4 warps has 64 × 64 of out, a warp 16
// rows of it; steps of 64 along K pass through two stages of shared memory filled by cp.async. Else
// a block of 256 threads has 32 × 32 of out, a thread 4 of one column, on CUDA cores. Limit: the
// unfused attention that this serves is bound by the scores it writes and reads.
#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

struct Plane {
  std::int64_t n, m, row;  // strides
};

struct MatmulArguments {
  void* out;          // (N, M, X, Y)
  const void *a, *b;  // (N, M, X, K), (N, M, Y, K) or (N, M, K, Y)
  Plane out_stride, a_stride, b_stride;
  int planes_m, rows, columns, inner;  // M, X, Y, K
  float scale;
  bool b_rows_summed;
};

constexpr int kTile = 64, kThreads = 128, kRow = kTile + 8;

// 64 rows from `first`, 64 columns from `column`, zeros outside (rows, columns).
template <typename T>
__device__ void load_block(T* shared, const T* source, std::int64_t stride, int first, int rows,
                           int column, int columns) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * 8; i += kThreads) {
    const int r = i / 8, d = i % 8 * 8;
    const bool valid = first + r < rows && column + d < columns;
    cp_async_16(
        shared + r * kRow + d,
        valid ? source + static_cast<std::int64_t>(first + r) * stride + column + d : source,
        valid);
  }
}

template <typename T, bool kRowsSummed>
__global__ void __launch_bounds__(kThreads) batch_matmul_kernel(const MatmulArguments p) {
  __shared__ alignas(16) T a_shared[2][kTile * kRow];
  __shared__ alignas(16) T b_shared[2][kTile * kRow];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n = static_cast<int>(blockIdx.x) / p.planes_m;
  const int m = static_cast<int>(blockIdx.x) % p.planes_m;
  const int first_row = static_cast<int>(blockIdx.y) * kTile;
  const int first_column = static_cast<int>(blockIdx.z) * kTile;
  const T* a = static_cast<const T*>(p.a) + n * p.a_stride.n + m * p.a_stride.m;
  const T* b = static_cast<const T*>(p.b) + n * p.b_stride.n + m * p.b_stride.m;
  pdl_launch_dependents();
  pdl_wait();
  const auto load = [&](int step) {
    T* to = b_shared[step % 2];
    load_block(a_shared[step % 2], a, p.a_stride.row, first_row, p.rows, step * kTile, p.inner);
    if constexpr (kRowsSummed) {
      load_block(to, b, p.b_stride.row, step * kTile, p.inner, first_column, p.columns);
    } else {
      load_block(to, b, p.b_stride.row, first_column, p.columns, step * kTile, p.inner);
    }
    cp_async_commit();
  };
  float sum[8][4] = {};
  const int steps = (p.inner + kTile - 1) / kTile;
  load(0);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<0>();
    __syncthreads();  // this step is in, and every warp is done with the stage filled next
    if (step + 1 < steps) load(step + 1);
    const T* a_tile = a_shared[step % 2];
    const T* b_tile = b_shared[step % 2];
#pragma unroll
    for (int s = 0; s < kTile / 16; ++s) {
      std::uint32_t fragment[4];
      ldmatrix_x4(fragment, a_tile + (warp * 16 + lane % 16) * kRow + s * 16 + lane / 16 * 8);
#pragma unroll
      for (int c = 0; c < 8; c += 2) {
        std::uint32_t two[4];
        if constexpr (kRowsSummed) {
          ldmatrix_x4_transposed(
              two, b_tile + (s * 16 + lane / 8 % 2 * 8 + lane % 8) * kRow + c * 8 + lane / 16 * 8);
        } else {
          ldmatrix_x4(
              two, b_tile + (c * 8 + lane / 16 * 8 + lane % 8) * kRow + s * 16 + lane / 8 % 2 * 8);
        }
        mma_16816<T>(sum[c], fragment, two[0], two[1]);
        mma_16816<T>(sum[c + 1], fragment, two[2], two[3]);
      }
    }
  }
  T* out = static_cast<T*>(p.out) + n * p.out_stride.n + m * p.out_stride.m;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + warp * 16 + lane / 4 + r * 8;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const int column = first_column + c * 8 + lane % 4 * 2;
      if (row < p.rows && column < p.columns) {
        *reinterpret_cast<std::uint32_t*>(out + row * p.out_stride.row + column) =
            pack_pair<T>(sum[c][2 * r] * p.scale, sum[c][2 * r + 1] * p.scale);
      }
    }
  }
}

constexpr int kPlainTile = 32, kPlainThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kPlainThreads)
    batch_matmul_plain_kernel(const MatmulArguments p) {
  __shared__ float a_shared[kPlainTile][kPlainTile + 1];  // (rows, inner)
  __shared__ float b_shared[kPlainTile][kPlainTile + 1];  // (inner, columns)
  const int x = static_cast<int>(threadIdx.x) % 32, y = static_cast<int>(threadIdx.x) / 32;
  const int n = static_cast<int>(blockIdx.x) / p.planes_m;
  const int m = static_cast<int>(blockIdx.x) % p.planes_m;
  const int first_row = static_cast<int>(blockIdx.y) * kPlainTile;
  const int column = static_cast<int>(blockIdx.z) * kPlainTile + x;
  const T* a = static_cast<const T*>(p.a) + n * p.a_stride.n + m * p.a_stride.m;
  const T* b = static_cast<const T*>(p.b) + n * p.b_stride.n + m * p.b_stride.m;
  pdl_launch_dependents();
  pdl_wait();
  float sum[4] = {};
  for (int step = 0; step < p.inner; step += kPlainTile) {
    __syncthreads();  // every thread is done with the tiles
    for (int r = y; r < kPlainTile; r += 8) {
      const int row = first_row + r;
      a_shared[r][x] =
          row < p.rows && step + x < p.inner ? to_f32(a[row * p.a_stride.row + step + x]) : 0.0f;
      if (p.b_rows_summed) {
        b_shared[r][x] = step + r < p.inner && column < p.columns
                             ? to_f32(b[(step + r) * p.b_stride.row + column])
                             : 0.0f;
      } else {
        const int from = static_cast<int>(blockIdx.z) * kPlainTile + r;
        b_shared[x][r] = from < p.columns && step + x < p.inner
                             ? to_f32(b[from * p.b_stride.row + step + x])
                             : 0.0f;
      }
    }
    __syncthreads();  // the tiles are in
#pragma unroll 8
    for (int j = 0; j < kPlainTile; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] = fmaf(a_shared[y * 4 + i][j], b_shared[j][x], sum[i]);
    }
  }
  T* out = static_cast<T*>(p.out) + n * p.out_stride.n + m * p.out_stride.m;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + y * 4 + i;
    if (row < p.rows && column < p.columns) {
      out[row * p.out_stride.row + column] = from_f32<T>(sum[i] * p.scale);
    }
  }
}

template <typename T>
void launch_tensor_cores(CudaContext& context, const MatmulArguments& p, dim3 grid) {
  if (p.b_rows_summed) {
    launch(context, batch_matmul_kernel<T, true>, grid, kThreads, std::size_t{0}, p);
  } else {
    launch(context, batch_matmul_kernel<T, false>, grid, kThreads, std::size_t{0}, p);
  }
}

}  // namespace

void batch_matmul(CudaContext& context, const BatchMatmulCall& call) {
  const auto strides = [](const Tensor& t) { return Plane{t.stride(0), t.stride(1), t.stride(2)}; };
  const MatmulArguments p{.out = call.out.data,
                          .a = call.a.data,
                          .b = call.b.data,
                          .out_stride = strides(call.out),
                          .a_stride = strides(call.a),
                          .b_stride = strides(call.b),
                          .planes_m = static_cast<int>(call.a.size(1)),
                          .rows = static_cast<int>(call.out.size(2)),
                          .columns = static_cast<int>(call.out.size(3)),
                          .inner = static_cast<int>(call.a.size(3)),
                          .scale = call.scale,
                          .b_rows_summed = call.b_rows_summed};
  const bool vectors = call.a.dtype != DType::kF32 && p.inner % 8 == 0 && p.columns % 8 == 0 &&
                       is_vector_aligned(call.a) && is_vector_aligned(call.b) &&
                       is_vector_aligned(call.out);
  const int tile = vectors ? kTile : kPlainTile;
  const dim3 grid(to_unsigned(call.a.size(0) * call.a.size(1)),
                  to_unsigned((p.rows + tile - 1) / tile),
                  to_unsigned((p.columns + tile - 1) / tile));
  if (vectors && call.a.dtype == DType::kBF16) {
    return launch_tensor_cores<__nv_bfloat16>(context, p, grid);
  }
  if (vectors) return launch_tensor_cores<__half>(context, p, grid);
  dispatch_float(call.a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, batch_matmul_plain_kernel<T>, grid, kPlainThreads, std::size_t{0}, p);
  });
}

}  // namespace engine::cuda
