// The product of row_product.h for many rows on Hopper's tensor cores (wgmma): x of 16 bits,
// weights of x's type or int8, fp32 accumulation. Optionally, where the outputs are those of a gate
// followed by those of an up projection (N = 2 F), writes silu(gate) · up (T, S, F) instead; gate
// and up are rounded to x's type first, as when they are written.
//
// Layout: W (N, K) row-major is the left operand, kOutputTile of its rows a tile, and goes from
// shared memory through registers, where int8 becomes x's type, exactly; the rows of x are the
// right operand, kRows of them a tile, and lie in shared memory in the 128-byte swizzle. A block
// has two warpgroups that multiply, 64 outputs × kRows each, and one that copies tiles of kStep of
// K into a ring of stages. The ring runs on over the block's tiles of output: blocks stay, one to a
// multiprocessor, and tiles of the same outputs are neighbours, so that W is read from memory once.
// Which row of W is which row of the left operand is ours to choose: row g of a warp's 16 is slot
// 4 (g / 2) + g % 2, row g + 8 that plus 2, so that a lane ends with four neighbouring outputs.
// Limit: tensor-core multiply-adds; for few rows the bytes of W.
#pragma once

#include <algorithm>

#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/mbarrier.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/wgmma.cuh"
#include "kernels/cuda/device/widen.cuh"
#include "kernels/cuda/row_product.cuh"

namespace engine::cuda::sm90 {

constexpr int kOutputTile = 128, kStep = 64;
constexpr int kConsumers = 256, kProducers = 128, kThreads = kConsumers + kProducers;
constexpr int kTileAlignment = 1024;  // of the swizzle

// Where the parts of a block's dynamic shared memory lie, past its first multiple of 1024.
template <typename W, int kRows>
struct Stages {
  static constexpr int kWBytes = kOutputTile * kStep * static_cast<int>(sizeof(W));
  static constexpr int kXBytes = kRows * kStep * 2;
  static constexpr int kBytes = kWBytes + kXBytes;
  static constexpr int kCount = std::min(8, 208 * 1024 / kBytes);
  // Stages whose copies the producer leaves under way before it announces one.
  static constexpr int kInFlight = kCount - 3;
  static constexpr int kShared = kTileAlignment + kCount * (kBytes + 16);
  static_assert(kInFlight >= 1 && kBytes % kTileAlignment == 0);

  std::uint32_t base;  // shared address
  __device__ std::uint32_t x(int stage) const {
    return base + static_cast<std::uint32_t>(stage * kBytes);
  }
  __device__ std::uint32_t w(int stage) const { return x(stage) + kXBytes; }
  __device__ std::uint32_t full(int stage) const {
    return base + static_cast<std::uint32_t>(kCount * kBytes + stage * 16);
  }
  __device__ std::uint32_t empty(int stage) const { return full(stage) + 8; }
};

// A place in the ring: the stage, and the parity of its round.
template <int kCount>
struct Place {
  int stage = 0;
  std::uint32_t round = 0;
  __device__ void advance() {
    if (++stage == kCount) {
      stage = 0;
      round ^= 1;
    }
  }
};

// Tile `index` of the launch: tiles of rows are the inner ones.
template <int kRows>
struct Tile {
  RowGroup group;
  std::int64_t first;  // output, in units of an output tile
  __device__ Tile(const RowProduct& p, std::int32_t index) {
    const std::int32_t tile = index % p.tiles;
    first = index / p.tiles;
    group = p.order != nullptr ? p.groups[tile]
                               : RowGroup{0, tile * kRows, min(kRows, p.rows - tile * kRows)};
  }
};

// How a piece's place in its row of a tile of W is permuted against bank conflicts.
template <typename W>
__device__ int w_key(int slot) {
  if constexpr (sizeof(W) == 1) return slot >> 2 & 3;
  return (slot & 1) | (slot >> 2 & 3) << 1;
}

// The row of an expert's W that slot `slot` of output tile `first` holds; N or more: none.
template <bool kSilu>
__device__ std::int64_t w_row(const RowProduct& p, std::int64_t first, int slot) {
  if constexpr (!kSilu) return first * kOutputTile + slot;
  const int g = slot % 16 / 4 * 2 + slot % 2;
  const std::int64_t width = p.outputs / 2, f = first * (kOutputTile / 2) + slot / 16 * 8 + g;
  return f >= width ? p.outputs : slot / 2 % 2 == 0 ? f : width + f;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Copies every step of every tile of the block into the ring. A thread has pieces of 16 bytes of
// every few rows; offsets count pieces, −1 where a row is not there.
template <typename T, typename W, int kRows, bool kSilu>
__device__ void produce(const RowProduct& p, const Stages<W, kRows>& ring, std::int32_t tiles) {
  using Ring = Stages<W, kRows>;
  constexpr int kWPieces = kStep * static_cast<int>(sizeof(W)) / 16, kXPieces = kStep / 8;
  constexpr int kWApart = kProducers / kWPieces, kXApart = kProducers / kXPieces;
  constexpr int kWCount = kOutputTile / kWApart, kXCount = kRows / kXApart;
  const int thread = static_cast<int>(threadIdx.x) - kConsumers;
  const int w_piece = thread % kWPieces, w_slot = thread / kWPieces;
  const int x_piece = thread % kXPieces, x_slot = thread / kXPieces;
  const auto* x = static_cast<const uint4*>(p.x) + x_piece;
  const auto* weight = static_cast<const uint4*>(p.weight) + w_piece;
  const std::uint32_t w_to =
      static_cast<std::uint32_t>(w_slot * kWPieces + (w_piece ^ w_key<W>(w_slot))) * 16;
  const std::uint32_t x_to =
      static_cast<std::uint32_t>(x_slot * kXPieces + (x_piece ^ x_slot % 8)) * 16;
  static_assert(kWApart % 16 == 0 && kXApart % 8 == 0, "the permutation repeats every few rows");

  Place<Ring::kCount> place, announced;
  int pending = 0;
  const auto announce = [&] {
    fence_async_shared();
    mbarrier_arrive(ring.full(announced.stage));
    announced.advance();
  };
  for (std::int32_t index = static_cast<std::int32_t>(blockIdx.x); index < tiles;
       index += static_cast<std::int32_t>(gridDim.x)) {
    const Tile<kRows> tile(p, index);
    if (tile.group.count == 0) continue;
    std::int32_t w_from[kWCount], x_from[kXCount];
#pragma unroll
    for (int i = 0; i < kWCount; ++i) {
      const std::int64_t n = w_row<kSilu>(p, tile.first, w_slot + i * kWApart);
      const std::int64_t row = tile.group.expert * p.outputs + n;
      w_from[i] = n < p.outputs ? static_cast<std::int32_t>(row * p.columns * sizeof(W) / 16) : -1;
    }
#pragma unroll
    for (int i = 0; i < kXCount; ++i) {
      const std::int32_t r = x_slot + i * kXApart, at = tile.group.begin + r;
      x_from[i] = -1;
      if (r >= tile.group.count) continue;
      const std::int32_t row = p.order == nullptr ? at : p.order[at];
      x_from[i] = static_cast<std::int32_t>((x_row<T>(p, row) - static_cast<const T*>(p.x)) / 8);
    }
    for (std::int32_t k = 0; k < p.columns; k += kStep) {
      mbarrier_wait(ring.empty(place.stage), place.round ^ 1);
      const bool w_there = k + w_piece * (16 / static_cast<int>(sizeof(W))) < p.columns;
      const bool x_there = k + x_piece * 8 < p.columns;
      const std::int32_t w_k = k * static_cast<int>(sizeof(W)) / 16, x_k = k / 8;
#pragma unroll
      for (int i = 0; i < kWCount; ++i) {
        const bool valid = w_there && w_from[i] >= 0;
        cp_async_16(ring.w(place.stage) + w_to + i * kWApart * kWPieces * 16,
                    weight + (valid ? w_from[i] + w_k : -w_piece), valid);
      }
#pragma unroll
      for (int i = 0; i < kXCount; ++i) {
        const bool valid = x_there && x_from[i] >= 0;
        cp_async_16(ring.x(place.stage) + x_to + i * kXApart * kXPieces * 16,
                    x + (valid ? x_from[i] + x_k : -x_piece), valid);
      }
      cp_async_commit();
      place.advance();
      if (++pending > Ring::kInFlight) {
        cp_async_wait<Ring::kInFlight>();
        announce();
        --pending;
      }
    }
  }
  cp_async_wait<0>();
  for (; pending > 0; --pending) announce();
}

// The left operands of a step as they lie in a tile of W, for each 16 of K, from the warp's 16
// slots. `from` is the lane's address in it: its slot, its key and its elements of a piece.
template <typename W>
__device__ void load_left(std::uint32_t (&a)[kStep / 16][4], std::uint32_t from) {
  constexpr std::uint32_t kHalf = 2 * kStep * sizeof(W);  // rows g + 8 are two slots on
#pragma unroll
  for (std::uint32_t k = 0; k < kStep / 16; ++k) {
    if constexpr (sizeof(W) == 1) {
      const std::uint32_t at = from ^ k << 4;
      a[k][0] = load_shared_16(at);
      a[k][1] = load_shared_16(at + kHalf);
      a[k][2] = load_shared_16(at + 8);
      a[k][3] = load_shared_16(at + kHalf + 8);
    } else {
      const std::uint32_t at = from ^ k << 5, next = from ^ (k << 5 | 16u);
      a[k][0] = load_shared_32(at);
      a[k][1] = load_shared_32(at + kHalf);
      a[k][2] = load_shared_32(next);
      a[k][3] = load_shared_32(next + kHalf);
    }
  }
}

// sum (64 outputs × kRows) of the warpgroup over all of K; leaves the ring at the next tile.
template <typename T, typename W, int kRows>
__device__ void multiply(float (&sum)[kRows / 2], const Stages<W, kRows>& ring,
                         Place<Stages<W, kRows>::kCount>& place, std::uint32_t from, int steps) {
  std::uint32_t raw[kStep / 16][4], left[kStep / 16][4];
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sum[i] = 0.0f;
  const auto load = [&] {
    mbarrier_wait(ring.full(place.stage), place.round);
    load_left<W>(raw, ring.w(place.stage) + from);
  };
  const auto issue = [&](int stage) {
    const std::uint64_t x = swizzled_tile(ring.x(stage));
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        left[k][j] = sizeof(W) == 1 ? widen<T>(raw[k][j]) : raw[k][j];
      }
    }
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
      Wgmma<T, kRows>::run(sum, left[k], x + static_cast<std::uint64_t>(2 * k));
    }
    wgmma_commit();
  };
  // Ends the step of `stage`: this warp has read all it needs of it.
  const auto finish = [&](int stage) {
    wgmma_wait<0>();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(ring.empty(stage));
  };
  load();
  for (int i = 1; i < steps; ++i) {
    const int stage = place.stage;
    issue(stage);
    place.advance();
    // int8 is loaded while the tensor cores work, and widened while they work for the other
    // warpgroup; what is an operand as it is has to wait.
    if constexpr (sizeof(W) == 1) load();
    finish(stage);
    if constexpr (sizeof(W) != 1) load();
  }
  issue(place.stage);
  finish(place.stage);
  place.advance();
}

// Where outputs n.. of row `row` lie in out and the residual, in elements.
struct Outputs {
  std::int64_t out, residual, left;  // `left` outputs are there
  __device__ Outputs(const RowProduct& p, std::int32_t row, std::int64_t n, std::int64_t width) {
    const std::int32_t t = p.slots == 1 ? row : row / p.slots;
    out = t * p.out_stride + (row - t * p.slots) * p.out_slot_stride + n;
    residual = t * p.residual_stride + n;
    left = width - n;
  }
};

// out = sum × scale (+ residual) for four outputs, rounded once.
template <typename Out>
__device__ void store_four(const RowProduct& p, const Outputs& to, const float (&sum)[4],
                           const float (&scale)[4], bool vectors) {
  using Four = std::conditional_t<sizeof(Out) == 4, uint4, uint2>;
  if (to.left <= 0) return;
  Four raw{};
  Out* elements = reinterpret_cast<Out*>(&raw);
  if (p.residual != nullptr) {
    const Out* from = static_cast<const Out*>(p.residual) + to.residual;
    if (vectors) {
      raw = *reinterpret_cast<const Four*>(from);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i < to.left) elements[i] = from[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    elements[i] = from_f32<Out>(fmaf(sum[i], scale[i], to_f32(elements[i])));
  }
  Out* out = static_cast<Out*>(p.out) + to.out;
  if (vectors) {
    *reinterpret_cast<Four*>(out) = raw;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < to.left) out[i] = elements[i];
  }
}

// silu(gate) · up, both rounded first. The quotient is within 2 ulp, far below half an ulp of T.
template <typename T>
__device__ float silu_of(float gate, float up) {
  const float z = round_to<T>(gate);
  return __fdividef(z, 1.0f + __expf(-z)) * round_to<T>(up);
}

// Two outputs of silu(gate) · up from gate, gate, up, up.
template <typename T>
__device__ void store_silu(const RowProduct& p, const Outputs& to, const float (&sum)[4],
                           const float (&scale)[4], bool vectors) {
  if (to.left <= 0) return;
  float inner[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    inner[i] = silu_of<T>(sum[i] * scale[i], sum[i + 2] * scale[i + 2]);
  }
  T* out = static_cast<T*>(p.out) + to.out;
  if (vectors) {
    *reinterpret_cast<std::uint32_t*>(out) = pack_pair<T>(inner[0], inner[1]);
  } else {
    out[0] = from_f32<T>(inner[0]);
    if (to.left > 1) out[1] = from_f32<T>(inner[1]);
  }
}

// Row g of each 8 rows × 16 slots of a warp: lane (g, q) gets slots 4q.. of it. An 8 × 8 piece of
// fp32 is transposed as two of 16 bits.
template <int kCount>
__device__ void transpose_piece(float (&four)[4], const float (&sum)[kCount], int j) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::uint32_t a = __float_as_uint(sum[4 * j + 2 * h]);
    const std::uint32_t b = __float_as_uint(sum[4 * j + 2 * h + 1]);
    const std::uint32_t low = transpose_8x8(__byte_perm(a, b, 0x5410u));
    const std::uint32_t high = transpose_8x8(__byte_perm(a, b, 0x7632u));
    four[2 * h] = __uint_as_float(__byte_perm(low, high, 0x5410u));
    four[2 * h + 1] = __uint_as_float(__byte_perm(low, high, 0x7632u));
  }
}

// The common store: out of x's type in rows `row_stride` apart, vectors.
template <typename T, bool kSilu>
__device__ void store_fast(const RowProduct& p, std::int32_t row, std::int64_t n,
                           std::int32_t row_stride, const float (&sum)[4],
                           const float (&scale)[4]) {
  T* out = static_cast<T*>(p.out) + n + static_cast<std::int64_t>(row) * row_stride;
  float value[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) value[i] = sum[i] * scale[i];
  if constexpr (kSilu) {
#pragma unroll
    for (int i = 0; i < 2; ++i) value[i] = silu_of<T>(value[i], value[i + 2]);
    *reinterpret_cast<std::uint32_t*>(out) = pack_pair<T>(value[0], value[1]);
  } else {
    if (p.residual != nullptr) {
      const uint2 raw = *reinterpret_cast<const uint2*>(
          static_cast<const T*>(p.residual) + n +
          static_cast<std::int64_t>(row) * static_cast<std::int32_t>(p.residual_stride));
      const T* add = reinterpret_cast<const T*>(&raw);
#pragma unroll
      for (int i = 0; i < 4; ++i) value[i] = fmaf(sum[i], scale[i], to_f32(add[i]));
    }
    *reinterpret_cast<uint2*>(out) =
        make_uint2(pack_pair<T>(value[0], value[1]), pack_pair<T>(value[2], value[3]));
  }
}

// Writes a warpgroup's sums. `row_stride`: of the common store; 0: it is another. Two loops, so
// that the common one is short: it stands in the code once for every 8 rows.
template <typename T, typename W, int kRows, bool kSilu>
__device__ void store_tile(const RowProduct& p, const Tile<kRows>& tile,
                           const float (&sum)[kRows / 2], bool vectors, std::int32_t row_stride) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) / 32 * 16 + lane % 4 * 4, g = lane / 4;
  const std::int64_t base = tile.group.expert * p.outputs;
  const std::int64_t n = w_row<kSilu>(p, tile.first, first);
  const std::int64_t width = kSilu ? p.outputs / 2 : p.outputs;
  float scale[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::int64_t n_i = w_row<kSilu>(p, tile.first, first + i);
    scale[i] = n_i < p.outputs ? weight_scale<W>(p, base + n_i) : 0.0f;
  }
  if (row_stride != 0) {
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j) {
      if (j * 8 >= tile.group.count) break;  // for the whole warp
      float four[4];
      transpose_piece(four, sum, j);
      if (j * 8 + g >= tile.group.count || n >= width) continue;
      const std::int32_t at = tile.group.begin + j * 8 + g;
      store_fast<T, kSilu>(p, p.order == nullptr ? at : p.order[at], n, row_stride, four, scale);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kRows / 8; ++j) {
    if (j * 8 >= tile.group.count) break;  // for the whole warp
    float four[4];
    transpose_piece(four, sum, j);
    if (j * 8 + g >= tile.group.count) continue;
    const std::int32_t at = tile.group.begin + j * 8 + g;
    const Outputs to(p, p.order == nullptr ? at : p.order[at], n, width);
    if constexpr (kSilu) {
      store_silu<T>(p, to, four, scale, vectors);
    } else if (p.f32_out) {
      store_four<float>(p, to, four, scale, vectors);
    } else {
      store_four<T>(p, to, four, scale, vectors);
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

// `vectors`: rows of out and of the residual allow accesses of 4 (with kSilu 2) elements;
// `row_stride`: rows of out lie that far apart and have x's type; 0: else.
template <typename T, typename W, int kRows, bool kSilu>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_row_product_kernel(const RowProduct p, std::int32_t tiles, bool vectors,
                            std::int32_t row_stride) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Ring = Stages<W, kRows>;
  extern __shared__ std::uint8_t shared_stages[];
  const Ring ring{(shared_address(shared_stages) + kTileAlignment - 1) & ~(kTileAlignment - 1u)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < Ring::kCount; ++i) {
      mbarrier_init(ring.full(i), kProducers);
      mbarrier_init(ring.empty(i), kConsumers / 32);
    }
    fence_async_shared();
  }
  pdl_launch_dependents();
  pdl_wait();
  __syncthreads();  // the barriers are made
  // A block's threads share the 168 registers a thread that it starts with: 2 × 216 + 72 = 3 × 168.
  if (threadIdx.x >= kConsumers) {
    fewer_registers<72>();
    produce<T, W, kRows, kSilu>(p, ring, tiles);
  } else {
    more_registers<216>();
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4;
    const int slot = static_cast<int>(threadIdx.x) / 32 * 16 + g / 2 * 4 + g % 2;
    const std::uint32_t from = static_cast<std::uint32_t>(
        slot * kStep * static_cast<int>(sizeof(W)) + w_key<W>(slot) * 16 +
        lane % 4 * 2 * static_cast<int>(sizeof(W)));
    const int steps = static_cast<int>((p.columns + kStep - 1) / kStep);
    Place<Ring::kCount> place;
    for (std::int32_t index = static_cast<std::int32_t>(blockIdx.x); index < tiles;
         index += static_cast<std::int32_t>(gridDim.x)) {
      const Tile<kRows> tile(p, index);
      if (tile.group.count == 0) continue;
      float sum[kRows / 2];
      multiply<T, W, kRows>(sum, ring, place, from, steps);
      store_tile<T, W, kRows, kSilu>(p, tile, sum, vectors, row_stride);
    }
  }
#endif
}

template <typename T, typename W, int kRows, bool kSilu>
void launch_tiles(CudaContext& context, const RowProduct& p) {
  const std::int64_t width = kSilu ? kOutputTile / 2 : kOutputTile;
  const std::int64_t outputs = kSilu ? p.outputs / 2 : p.outputs;
  const std::int64_t tiles = (outputs + width - 1) / width * p.tiles;
  const std::int64_t limit = std::int64_t{1} << 31;
  ENGINE_REQUIRE(
      p.count * p.outputs * p.columns * static_cast<std::int64_t>(sizeof(W)) / 16 < limit,
      "sm90_row_product: the weight is too large");
  const std::int64_t out_size = p.f32_out ? 4 : 2, each = kSilu ? 2 : 4;
  const auto allows = [&](const void* address, std::int64_t stride) {
    return reinterpret_cast<std::uintptr_t>(address) % static_cast<std::size_t>(out_size * each) ==
               0 &&
           stride % each == 0;
  };
  const bool vectors = outputs % each == 0 && allows(p.out, p.out_stride) &&
                       allows(p.out, p.out_slot_stride) && allows(p.residual, p.residual_stride);
  const std::int64_t apart = p.slots == 1 ? p.out_stride : p.out_slot_stride;
  const bool common = vectors && !p.f32_out && p.out_stride == apart * p.slots && apart < limit &&
                      (p.residual == nullptr || p.slots == 1) && p.residual_stride < limit;
  const auto grid = std::min<std::int64_t>(tiles, context.arch().sms);
  launch(context, sm90_row_product_kernel<T, W, kRows, kSilu>, to_unsigned(grid), kThreads,
         Stages<W, kRows>::kShared, p, static_cast<std::int32_t>(tiles), vectors,
         static_cast<std::int32_t>(common ? apart : 0));
}

template <typename T, typename W, bool kSilu>
void pick_rows(CudaContext& context, const RowProduct& p, int row_tile) {
  switch (row_tile) {
    case 64:
      return launch_tiles<T, W, 64, kSilu>(context, p);
    case 128:
      return launch_tiles<T, W, 128, kSilu>(context, p);
    case 256:
      return launch_tiles<T, W, 256, kSilu>(context, p);
    default:
      fail(ErrorKind::kInternal, "sm90_row_product: no tile of ", row_tile, " rows");
  }
}

}  // namespace engine::cuda::sm90
