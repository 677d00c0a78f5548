// The product of row_product.h for a few rows on tensor cores: up to 8 rows of x by a matrix,
// weights of x's type or int8, fp32 accumulation. int8 becomes x's type in registers, exactly, as
// |q| ≤ 128; the scale multiplies the finished sum.
//
// Layout: W (N, K) row-major; rows of x in shared memory, `row_tile` of them, so far apart that a
// fragment's eight rows meet no bank twice. Who computes what: a block a multiprocessor has a run
// of tiles, 32 outputs × up to 8 rows; a warp has every kWarps-th 64 bytes of a tile's rows of W
// and keeps kDepth such pieces in flight in registers, across the ends of tiles. A lane's 16 bytes
// of row g and of row g + 8 are, as they are, operands of mma: the order in which the elements of K
// meet is free as long as both sides agree. The warps' sums meet in shared memory, and are added in
// the order of the warps. Limit: the bytes of the matrices.
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/widen.cuh"
#include "kernels/cuda/row_product.cuh"

namespace engine::cuda {
namespace {

constexpr int kWarps = kRowFewWarps, kThreads = kWarps * 32, kDepth = 2;
constexpr int kPiece = 64;  // bytes of a row of W that a warp multiplies at a time
constexpr int kOutputs = kRowFewOutputs, kRows = kRowFewRows;
constexpr int kHalves = kOutputs / 16;    // of a tile, the M of the tensor cores' product
constexpr int kSumStride = kOutputs + 1;  // of a row of x: two meet no bank twice
constexpr int kFinishers = kOutputs * kRows;

// A lane's part of a piece of W: 16 bytes of row g and of row g + 8 of each half.
struct Piece {
  uint4 upper[kHalves], lower[kHalves];
};

template <typename T, typename W>
__device__ void multiply(float (&sum)[kHalves][4], const Piece& w, const T* x) {
  constexpr int kVectors = sizeof(W) == 1 ? 2 : 1;
  std::uint32_t value[4 * kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const uint4 raw = load_vector(x + v * 8);
    value[4 * v] = raw.x, value[4 * v + 1] = raw.y, value[4 * v + 2] = raw.z,
              value[4 * v + 3] = raw.w;
  }
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    const std::uint32_t upper[4] = {w.upper[h].x, w.upper[h].y, w.upper[h].z, w.upper[h].w};
    const std::uint32_t lower[4] = {w.lower[h].x, w.lower[h].y, w.lower[h].z, w.lower[h].w};
    if constexpr (sizeof(W) == 1) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        mma_16816<T>(sum[h],
                     {widen<T>(upper[c]), widen<T>(lower[c]), widen<T>(upper[c] >> 16),
                      widen<T>(lower[c] >> 16)},
                     value[2 * c], value[2 * c + 1]);
      }
    } else {
#pragma unroll
      for (int c = 0; c < 4; c += 2) {
        mma_16816<T>(sum[h], {upper[c], lower[c], upper[c + 1], lower[c + 1]}, value[c],
                     value[c + 1]);
      }
    }
  }
}

// A tile of the product: the rows of x, and its first output.
struct Tile {
  int index;  // of the group
  RowGroup group;
  int output;
};

template <typename T, typename W>
__global__ void __launch_bounds__(kThreads, 1) row_few_kernel(const RowProduct p, int pitch) {
  // x (row_tile, pitch bytes), then sums (2, kWarps, kRows, kSumStride).
  extern __shared__ uint4 shared[];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const auto row_bytes = static_cast<int>(p.columns * static_cast<std::int64_t>(sizeof(W)));
  char* x_rows = reinterpret_cast<char*>(shared);
  auto* sums = reinterpret_cast<float*>(x_rows + p.row_tile * pitch);
  const int pieces = (row_bytes + kPiece - 1) / kPiece;
  // The warp's pieces of a row: kDepth adjacent ones at a time, which make whole lines of memory.
  const auto piece_at = [&](int step) {
    return (step / kDepth * kWarps + warp) * kDepth + step % kDepth;
  };
  const int padded = (pieces + kWarps * kDepth - 1) / (kWarps * kDepth) * kDepth;

  pdl_launch_dependents();
  std::int32_t groups = p.tiles;
  if (p.order != nullptr) {  // the filled groups come first
    pdl_wait();
    groups = 0;
    for (std::int32_t at = 0; at < p.tiles; at += kThreads) {
      const std::int32_t i = at + static_cast<std::int32_t>(threadIdx.x);
      groups += __syncthreads_count(i < p.tiles && p.groups[i].count > 0);
    }
  }
  const auto across = static_cast<int>((p.outputs + kOutputs - 1) / kOutputs);
  const std::int64_t items = static_cast<std::int64_t>(groups) * across;
  const auto first_of = [&](unsigned block) { return static_cast<int>(items * block / gridDim.x); };
  const int begin = first_of(blockIdx.x), end = first_of(blockIdx.x + 1);

  const auto group_at = [&](int index) {
    return p.order != nullptr
               ? p.groups[index]
               : RowGroup{0, index * p.row_tile, min(p.row_tile, p.rows - index * p.row_tile)};
  };
  const char *upper[kHalves], *lower[kHalves];  // the lane's rows of the tile that is fetched
  const auto seek = [&](const Tile& tile) {
    const int last = static_cast<int>(p.outputs) - 1;  // rows past it read it
    const auto row = [&](int r) {
      return static_cast<const char*>(p.weight) + lane % 4 * 16 +
             (tile.group.expert * p.outputs + min(tile.output + r, last)) * row_bytes;
    };
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      upper[h] = row(h * 16 + lane / 4), lower[h] = row(h * 16 + lane / 4 + 8);
    }
  };
  const auto fetch = [&](int step) {
    const int at = piece_at(step) * kPiece;
    Piece piece{};
    if (at + lane % 4 * 16 < row_bytes) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        piece.upper[h] = load_streaming(upper[h] + at);
        piece.lower[h] = load_streaming(lower[h] + at);
      }
    }
    return piece;
  };
  // Rows of x of a tile, with zeros to the end of their last piece.
  const auto stage_x = [&](const Tile& tile) {
    const int vectors = static_cast<int>(p.columns / kPerVector<T>), whole = pitch / 128 * 8;
    for (int r = 0; r < tile.group.count; ++r) {
      const std::int32_t place = tile.group.begin + r;
      const T* row = x_row<T>(p, p.order != nullptr ? p.order[place] : place);
      for (int v = static_cast<int>(threadIdx.x); v < whole; v += kThreads) {
        const bool exists = v < vectors;
        cp_async_16(x_rows + r * pitch + v * 16, row + (exists ? v : 0) * kPerVector<T>, exists);
      }
    }
    cp_async_commit();
    cp_async_wait<0>();
  };

  if (begin >= end) return;
  Tile tile{begin / across, group_at(begin / across), begin % across * kOutputs}, next = tile;
  Piece piece[kDepth];
  seek(tile);
#pragma unroll
  for (int i = 0; i < kDepth; ++i) piece[i] = fetch(i);
  if (p.order == nullptr) pdl_wait();
  stage_x(tile);
  __syncthreads();

  // The threads that add up a tile, of each tile others, one an output and row of x: what they need
  // beside the sums is asked for a tile ahead.
  const int own_output = static_cast<int>(threadIdx.x) % kOutputs,
            own_row = static_cast<int>(threadIdx.x) % kFinishers / kOutputs;
  SumPlace<T> place;
  const auto prepare = [&](int item, const Tile& of) {
    const bool own = static_cast<int>(threadIdx.x) / kFinishers == item % (kThreads / kFinishers);
    const int n = of.output + own_output, at = of.group.begin + own_row;
    place = {};
    if (own && n < p.outputs && own_row < of.group.count) {
      place = SumPlace<T>(p, p.order != nullptr ? p.order[at] : at, n,
                          weight_scale<W>(p, of.group.expert * p.outputs + n));
    }
  };
  prepare(begin, tile);
  float sum[kHalves][4] = {};
  int step = 0, buffer = 0;
  for (int item = begin; item < end;) {
    const bool ends = step + kDepth >= padded;
    if (ends && item + 1 < end) {
      next.output += kOutputs;
      if (next.output >= p.outputs) next = {next.index + 1, group_at(next.index + 1), 0};
      seek(next);
    }
    const int ahead = ends ? 0 : step + kDepth;
    const bool wanted = !ends || item + 1 < end;
    const int row = min(lane / 4, tile.group.count - 1);
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const Piece now = piece[i];
      if (wanted) piece[i] = fetch(ahead + i);
      const int at = piece_at(step + i);
      if (at >= pieces) continue;
      const int k = at * (kPiece / static_cast<int>(sizeof(W))) +
                    lane % 4 * (16 / static_cast<int>(sizeof(W)));
      multiply<T, W>(sum, now, reinterpret_cast<const T*>(x_rows + row * pitch) + k);
    }
    step = ahead;
    if (!ends) continue;

    // The tile is done.
    float* mine =
        sums + (buffer * kWarps + warp) * kRows * kSumStride + lane % 4 * 2 * kSumStride + lane / 4;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      mine[h * 16] = sum[h][0], mine[h * 16 + kSumStride] = sum[h][1];
      mine[h * 16 + 8] = sum[h][2], mine[h * 16 + kSumStride + 8] = sum[h][3];
    }
    __syncthreads();  // all sums are there, and nobody reads those of the tile before
    if (place.exists()) {
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        total += sums[((buffer * kWarps + w) * kRows + own_row) * kSumStride + own_output];
      }
      place.store(total);
    }
    if (item + 1 < end) prepare(item + 1, next);
    if (item + 1 < end && next.index != tile.index) {
      stage_x(next);
      __syncthreads();
    }
    tile = next, buffer ^= 1, ++item;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[h][i] = 0.0f;
    }
  }
}

}  // namespace

void row_few(CudaContext& context, const RowProduct& product, DType x, QuantFormat weight) {
  const std::int64_t items = product.tiles * ((product.outputs + kOutputs - 1) / kOutputs);
  const unsigned blocks = to_unsigned(std::min<std::int64_t>(items, context.arch().sms));
  dispatch_float(x, [&](auto x_tag) {
    using T = typename decltype(x_tag)::type;
    const auto run = [&](auto kernel, std::size_t weight_bytes) {
      launch(context, Carveout::kL1, kernel, blocks, kThreads,
             row_few_shared_bytes(product.columns, weight_bytes, product.row_tile), product,
             row_few_pitch(product.columns, weight_bytes));
    };
    if constexpr (sizeof(T) == 2) {
      if (weight == QuantFormat::kInt8) return run(row_few_kernel<T, std::int8_t>, 1);
      if (weight == plain_format(x)) return run(row_few_kernel<T, T>, 2);
    }
    fail(ErrorKind::kInternal, "row_few: x of type ", x);
  });
}

}  // namespace engine::cuda
