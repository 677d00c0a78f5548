// Products whose rows are whole rounds of slots: a warp then multiplies the same columns of every
// tile of a stage, so it needs those columns of x alone.
//
// A warp brings them itself, eight elements a lane, and keeps them as the B operands of its
// product: no barrier of the block lies between the last element of x and the first sum. What the
// warps would have to agree on comes behind the sums. A warp has a unit of its own for its digits
// (int8 weights; step/operand.cuh) and multiplies its sums, which are exact, by it. And rmsnorm,
//   Σ_k w_k · x_k · g_k ÷ √(mean(x²) + eps),
// has its root behind the sum over k: x · g is rounded once where a norm by itself rounds twice,
// and whoever finishes a tile adds up the warps' sums of squares and divides. In f16, x · g is
// brought into range by a power of two, the warp's unit again. Limit: as in step/product.cuh.
#pragma once

#include "kernels/cuda/step/product.cuh"

namespace engine::cuda {

// Bytes of a row that the groups of warps have multiplied when each has had one slot.
inline constexpr int kStepRound = kStepGroups * kStepChunk;

// Slots of a tile that are a warp's, 1 or 2. 0: the stage's rows are not of whole rounds, x is more
// than a vector a thread, or the normalised x is wanted itself.
template <typename T, typename Sum>
__device__ int own_slots(const StepStage& stage) {
  const int row_bytes = product_row_bytes<T, Sum>(stage);
  const bool whole = row_bytes % kStepRound == 0 && stage.columns <= kStepConsumers * 8;
  return whole && stage.normed == nullptr ? row_bytes / kStepRound : 0;
}

// The larger of two magnitudes, or NaN.
__device__ inline float larger_magnitude(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(fabsf(a)), "f"(fabsf(b)));
  return larger;
}
// Its bits order as the numbers do, with NaN above all.
__device__ inline std::uint32_t largest_magnitude(const float (&value)[8]) {
  float most[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) most[i] = larger_magnitude(value[i], value[i + 4]);
  return __float_as_uint(
      larger_magnitude(larger_magnitude(most[0], most[1]), larger_magnitude(most[2], most[3])));
}

// What a lane multiplies its sums by.
struct OwnUnit {
  float factor = 1.0f, tiny = 1.0f;
};

// The eight elements of x that a lane brings, asked for when it comes about.
template <typename T, typename Sum, bool kNormed>
struct OwnVector {
  static constexpr bool kInt8 = std::is_same_v<Sum, int>;
  const uint4* source;
  bool exchanged;
  uint4 value, weight;  // of x, and of the norm

  // Where they are in x: 256 bytes of every row of a slot are a warp's.
  __device__ static int element() {
    constexpr int kPart = kStepPart / (kInt8 ? 1 : static_cast<int>(sizeof(T)));
    constexpr int kLanes = kPart / 8;  // that share a slot
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return lane / kLanes * (kStepWarps * kPart) + warp * kPart + lane % kLanes * 8;
  }

  __device__ OwnVector(const StepShared& b, const StepStage& stage)
      : exchanged(stage.x_exchange >= 0),
        value(make_uint4(0, 0, 0, 0)),
        weight(make_uint4(0, 0, 0, 0)) {
    const T* x = exchanged ? reinterpret_cast<const T*>(b.exchange + stage.x_exchange)
                           : static_cast<const T*>(stage.x);
    source = reinterpret_cast<const uint4*>(x + element());
    if (element() >= stage.columns) return;
    value = load_relaxed(source);
    if (kNormed) weight = load_constant(static_cast<const T*>(stage.norm) + element());
  }

  // Until the warp's are there, or until stop().
  template <typename Stop>
  __device__ void await(Stop stop) {
    if (!exchanged) return;
    uint4 raw[1] = {value};
    await_vectors(raw, source, 0, stop);
    value = raw[0];
  }

  // The elements, times the norm's weights; of a norm the warp leaves its sum of squares. The lanes
  // of the warp call together, here and below.
  __device__ void read(StepShared& b, float (&x)[8]) const {
    unpack<T>(value, x);
    if constexpr (kNormed) {
      float squares = 0.0f, by[8];
      unpack<T>(weight, by);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        squares += x[i] * x[i];
        x[i] *= by[i];
      }
      squares = warp_sum(squares);
      if (threadIdx.x % 32 == 0) b.reduce[threadIdx.x / 32] = squares;
    }
  }

  // Into shared memory as elements of T. Returns the warp's unit.
  __device__ float store_values(const StepOperand<T>& operand, const StepStage& stage,
                                const float (&x)[8]) const {
    float unit = 1.0f;
    uint4 raw = value;
    if constexpr (kNormed && std::is_same_v<T, __half>) {
      const std::uint32_t largest = __reduce_max_sync(kFullWarp, largest_magnitude(x));
      const int exponent = max(-100, min(static_cast<int>(largest >> 23) - 127, 100));
      float scaled[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) scaled[i] = x[i] * power_of_two(-exponent);
      unit = power_of_two(exponent);
      raw = pack<T>(scaled);
    } else if constexpr (kNormed) {
      raw = pack<T>(x);
    }
    if (element() < stage.columns) operand.store_values(element(), raw);
    return unit;
  }
  // As digits. x is used up.
  __device__ OwnUnit store_digits(const StepOperand<T>& operand, float (&x)[8]) const {
    std::uint32_t largest = 0;
    if constexpr (kNormed) {
      largest = largest_magnitude(x);
    } else {
      largest = __float_as_uint(larger_of<T>(largest_pair(value)));
    }
    const DigitScale scale(__uint_as_float(__reduce_max_sync(kFullWarp, largest)));
    scale.begin(x);
    operand.store_digits(element(), x, scale.second);
    const int digit = static_cast<int>(threadIdx.x) % 4;  // of the lane's sums
    const float weight = digit == 0 ? 1.0f : digit == 1 ? 256.0f : digit == 2 ? 65536.0f : 0.0f;
    return {scale.unit * weight, scale.tiny};
  }
  // As the product with int8, or with 16-bit weights, wants them.
  __device__ OwnUnit store(const StepOperand<T>& operand, const StepStage& stage,
                           float (&x)[8]) const {
    if constexpr (kInt8) return store_digits(operand, x);
    return {store_values(operand, stage, x), 1.0f};
  }
};

// The lane's B operands of its warp's columns, which every tile of the stage meets.
template <int kSlots>
struct OwnOperand {
  static constexpr int kSteps = kStepPart / 64;
  uint2 word[kSlots][kSteps];
  OwnUnit unit;

  // From the lane's column at shared address `x`, where the warp's elements are.
  __device__ OwnOperand(std::uint32_t x, OwnUnit of_warp) : unit(of_warp) {
    const std::uint32_t first = x + threadIdx.x / 32 / kStepSlotWarps * kStepChunk;
#pragma unroll
    for (unsigned i = 0; i < kSlots * kSteps; ++i) {
      word[i / kSteps][i % kSteps] =
          load_shared_pair(first + i / kSteps * kStepRound + i % kSteps * 64);
    }
  }
  template <typename T, typename Sum>
  __device__ void multiply_slot(TileSums<Sum>& sums, const SlotPart<Sum>& part, int slot) const {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      multiply<T>(sums.upper, part.upper[i], word[slot][i]);
      multiply<T>(sums.lower, part.lower[i], word[slot][i]);
    }
    if (slot == 0) sums.scale = part.scale;
  }
};

// Where the warps leave their sums of a tile: those of a row behind each other, rows 80 bytes
// apart, so that eight lanes read 16 bytes of a row each without meeting a bank twice.
inline constexpr int kOwnRowBytes = 80;
static_assert(kStepWarps * 4 <= kOwnRowBytes);
static_assert(kStepRows * kOwnRowBytes <= kStepWarps * kStepRows * 8,
              "there is StepShared::partial");

// Of a quad of lanes the first gets the sum of row g and the second that of g + 8.
__device__ inline float own_sum(const TileSums<float>& sums, OwnUnit unit) {
  const bool odd = threadIdx.x % 2 != 0;
  return (odd ? sums.lower[0] + sums.lower[3] : sums.upper[0] + sums.upper[3]) * unit.factor;
}
__device__ inline float own_sum(const TileSums<int>& sums, OwnUnit unit) {
  const bool odd = threadIdx.x % 2 != 0;
  const float upper = static_cast<float>(sums.upper[0] + sums.upper[3]) * unit.factor;
  const float lower = static_cast<float>(sums.lower[0] + sums.lower[3]) * unit.factor;
  float sum = (odd ? lower : upper) + __shfl_xor_sync(kFullWarp, odd ? upper : lower, 1);
  sum += __shfl_xor_sync(kFullWarp, sum, 2);
  return sum * unit.tiny;
}

// Lane l gets the total of row l % kStepRows over the sums left at shared address `sums`.
__device__ inline float own_total(std::uint32_t sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t place =
      sums + static_cast<std::uint32_t>(lane % kStepRows * kOwnRowBytes + lane / kStepRows * 32);
  const auto four = [](uint4 raw) {
    return (__uint_as_float(raw.x) + __uint_as_float(raw.y)) +
           (__uint_as_float(raw.z) + __uint_as_float(raw.w));
  };
  const uint4 first = load_shared(place), second = load_shared(place + 16);
  const float total = four(first) + four(second);
  return total + __shfl_xor_sync(kFullWarp, total, 16);
}

// 1 ÷ √(mean(x²) + eps), of the sums of squares that the warps have left.
__device__ inline float own_root(const StepShared& b, const StepStage& stage) {
  const auto* squares = reinterpret_cast<const float4*>(b.reduce);
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kStepWarps / 4; ++i) {
    const float4 four = squares[i];
    total += (four.x + four.y) + (four.z + four.w);
  }
  return rsqrtf(fmaf(total, stage.per_column, stage.eps));
}

// The warp leaves its sums of the next tile, and one of the warps finishes it, as in run_tile.
template <typename T, typename Sum, bool kNormed>
__device__ void end_own_tile(StepConsumer& c, ProductTiles<T>& tiles, const TileSums<Sum>& sums,
                             OwnUnit unit) {
  constexpr bool kInt8 = std::is_same_v<Sum, int>;
  StepShared& b = tiles.b;
  const int buffer = c.tiles % kStepPartials, summed = kStepSummedBarrier + buffer;
  const unsigned phase = static_cast<unsigned>(c.tiles / kStepPartials) & 1;
  const bool finishes = c.next_finished() == 0;
  const std::uint32_t left = shared_address(b.partial[buffer]);
  ++c.tiles;
  const float sum = own_sum(sums, unit);
  mbarrier_wait(shared_address(&b.taken[buffer]), phase ^ 1);  // the sums here are used up
  if (c.lane % 4 < 2) {
    const int place = (c.lane / 4 + c.lane % 2 * 8) * kOwnRowBytes + c.warp * 4;
    store_shared_32(left + static_cast<std::uint32_t>(place), __float_as_uint(sum));
  }
  if (kInt8 && c.warp == 0 && c.lane < kStepRows) {
    b.scales[buffer][c.lane] = static_cast<std::uint16_t>(sums.scale);
  }
  __syncwarp();
  if (!finishes) {
    named_barrier_arrive(summed, kStepConsumers);
  } else {
    named_barrier_sync(summed, kStepConsumers);
    float total = own_total(left);
    if constexpr (kNormed) total *= own_root(b, tiles.stage);
    if constexpr (kInt8) total *= scale_value(b.scales[buffer][c.lane % kStepRows]);
    __syncwarp();
    mbarrier_arrive(shared_address(&b.taken[buffer]));
    tiles.finish_one(total);
  }
  tiles.next();
}

// The tiles of this block; with kBegun `begun` has the warp's sums of the first.
template <typename T, typename Sum, int kSlots, bool kNormed, bool kBegun>
__device__ void run_own_tiles(ProductTiles<T>& tiles, const OwnOperand<kSlots>& x,
                              const TileSums<Sum>& begun) {
  StepConsumer c(tiles.b);
  StepRing own = c.ring;
  own.advance(c.warp / kStepSlotWarps);
  if constexpr (kBegun) {
    own.advance(kSlots * kStepGroups);
    end_own_tile<T, Sum, kNormed>(c, tiles, begun, x.unit);
  }
  while (tiles.left()) {
    TileSums<Sum> sums;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      SlotPart<Sum> part;
      c.wait_slot(own);
      part.take(own.slot(), slot == 0 && c.warp == 0);
      c.release_slot(own);
      x.template multiply_slot<T>(sums, part, slot);
      own.advance(kStepGroups);
    }
    end_own_tile<T, Sum, kNormed>(c, tiles, sums, x.unit);
  }
  own.retreat(c.warp / kStepSlotWarps);
  c.ring = own;
  c.leave(tiles.b);
}

// A stage of kind kProduct. With kEarly the warp's slots of the first tile are taken before x is
// there (FirstParts), and of two where results go is worked out behind x: there is no room for it
// before.
template <typename T, typename Sum, int kSlots, bool kNormed, bool kEarly>
__device__ __noinline__ void run_own_product() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OwnVector<T, Sum, kNormed> vector(b, stage);
  const auto complete = [&] {
    vector.await([] { return false; });
    stamp(b, 1);
    const StepOperand<T> operand(b, stage);
    float x[8];
    vector.read(b, x);
    const OwnUnit unit = vector.store(operand, stage, x);
    __syncwarp();  // the warp's x is there
    const OwnOperand<kSlots> own(operand_column<T, Sum>(operand), unit);
    stamp(b, 2);
    return own;
  };
  const auto begin = [&](TileSums<Sum>& begun) {
    FirstParts<Sum, kSlots> first{StepConsumer(b)};
#pragma unroll
    for (int i = 0; i < kSlots; ++i) first.take(i, vector);
    const OwnOperand<kSlots> x = complete();
#pragma unroll
    for (int i = 0; i < kSlots; ++i) x.template multiply_slot<T>(begun, first.part[i], i);
    return x;
  };
  TileSums<Sum> begun;
  if constexpr (kEarly && kSlots > 1) {
    const OwnOperand<kSlots> x = begin(begun);
    ProductTiles<T> tiles(b, stage, StepConsumer(b));
    run_own_tiles<T, Sum, kSlots, kNormed, true>(tiles, x, begun);
  } else if constexpr (kEarly) {
    ProductTiles<T> tiles(b, stage, StepConsumer(b));
    const OwnOperand<kSlots> x = begin(begun);
    run_own_tiles<T, Sum, kSlots, kNormed, true>(tiles, x, begun);
  } else {
    ProductTiles<T> tiles(b, stage, StepConsumer(b));
    run_own_tiles<T, Sum, kSlots, kNormed, false>(tiles, complete(), begun);
  }
}

template <typename T, typename Sum, int kSlots>
__device__ void run_own_product(const StepStage& stage) {
  if (stage.norm != nullptr) {
    return stage.begins_early ? run_own_product<T, Sum, kSlots, true, true>()
                              : run_own_product<T, Sum, kSlots, true, false>();
  }
  stage.begins_early ? run_own_product<T, Sum, kSlots, false, true>()
                     : run_own_product<T, Sum, kSlots, false, false>();
}

// A stage of kind kProduct, of either sort.
template <typename T, typename Sum>
__device__ void run_any_product(const StepStage& stage) {
  const int slots = own_slots<T, Sum>(stage);
  if (slots == 1) return run_own_product<T, Sum, 1>(stage);
  if constexpr (std::is_same_v<Sum, float>) {
    if (slots == 2) return run_own_product<T, Sum, 2>(stage);
  }
  run_product_stage<T, Sum>(stage);
}

}  // namespace engine::cuda
