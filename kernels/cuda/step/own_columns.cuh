// Products of int8 weights of which a warp multiplies the same columns of every tile of a stage, so
// that it needs those columns of x alone.
//
// A group of warps has the same slots of every tile, and a warp 256 bytes of every row in them. It
// brings x of these columns itself, eight elements a lane: no barrier of the block lies between the
// last element of x and the first sum. What the warps would have to agree on comes behind the sums.
// A warp has a unit of its own for its digits (step/operand.cuh) and multiplies its sums, which are
// exact, by it. And rmsnorm,
//   Σ_k w_k · x_k · g_k ÷ √(mean(x²) + eps),
// has its root behind the sum over k: x · g is not rounded, and whoever finishes a tile adds up the
// warps' sums of squares and divides. Limit: as in step/product.cuh. With 16-bit weights this was
// slower than step/product.cuh: there the memory is busy for longer than x takes.
#pragma once

#include "kernels/cuda/step/router.cuh"

namespace engine::cuda {

// Whether a stage may be one of these: not a linear that a norm before it may have joined
// (lower.cc), whose x is rounded behind the norm whether it has or not, so that its bits are the
// same.
__device__ inline bool may_be_own(const StepStage& stage) {
  return stage.int8_weight && (stage.epilogue != StepEpilogue::kStore || stage.residual != nullptr);
}

// Whether a stage's rows are one slot of each group: then a warp keeps its x in registers for all
// tiles.
__device__ inline bool is_own(const StepStage& stage) {
  return may_be_own(stage) && stage.columns == kStepRound;
}

// Vectors of x a thread, at the most, in a stage of long rows.
inline constexpr int kOwnLongVectors = 4;

// Whether a stage has long rows, of whole parts and without a norm. Not a question of the ring,
// which depends on what else shares the launch.
__device__ inline bool is_own_long(const StepStage& stage) {
  return may_be_own(stage) && stage.norm == nullptr && stage.columns % kStepPart == 0 &&
         stage.columns > kStepRound && stage.columns <= kOwnLongVectors * kStepRound;
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

// Eight elements of 1.
template <typename T>
__device__ uint4 ones() {
  const std::uint32_t pair = pack_pair<T>(1.0f, 1.0f);
  return make_uint4(pair, pair, pair, pair);
}

// Up to kHeld vectors of x that a lane brings, each of eight elements, asked for when it comes
// about. With one of them there may be a norm; without, its weights are 1. The lanes of the warp
// call together.
template <typename T, int kHeld = 1>
struct OwnVectors {
  const uint4* source;
  bool exchanged;
  uint4 value[kHeld], weight;  // of x, and of the norm

  // Where they are in x: 256 bytes of every row of a slot are a warp's, and its next slot is a
  // round farther on.
  __device__ static int element(int i) {
    static_assert(kStepPart == 32 * 8 && kStepRound == kStepConsumers * 8);
    return static_cast<int>(threadIdx.x) * 8 + i * kStepRound;
  }

  __device__ OwnVectors(const StepShared& b, const StepStage& stage)
      : exchanged(stage.x_exchange >= 0), weight(ones<T>()) {
    const T* x = exchanged ? reinterpret_cast<const T*>(b.exchange + stage.x_exchange)
                           : static_cast<const T*>(stage.x);
    source = reinterpret_cast<const uint4*>(x + element(0));
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      value[i] = element(i) < stage.columns ? load_relaxed(source + i * kStepConsumers)
                                            : make_uint4(0, 0, 0, 0);
    }
    if (kHeld == 1 && stage.norm != nullptr) {
      weight = load_constant(static_cast<const T*>(stage.norm) + element(0));
    }
  }

  // Until the warp's are there, or until stop().
  template <typename Stop>
  __device__ void await(Stop stop) {
    if (exchanged) await_vectors(value, source, kStepConsumers, stop);
  }

  // The warp leaves its sum of squares, for a norm.
  __device__ void leave_squares(StepShared& b) const {
    const float squares = warp_sum(sum_of_squares<T>(value[0]));
    if (threadIdx.x % 32 == 0) b.reduce[threadIdx.x / 32] = squares;
  }
  // The elements, times the norm's weights.
  __device__ void product(float (&x)[8], int i) const {
    unpack<T>(value[i], x);
    if constexpr (kHeld == 1) {
      float by[8];
      unpack<T>(weight, by);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] *= by[j];
    }
  }

  // Into shared memory as elements of T, for a router; f16 by a power of two in its range, which it
  // returns.
  __device__ float store_values(const StepOperand<T>& operand) const {
    float x[8];
    product(x, 0);
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      operand.store_values(element(0), pack<T>(x));
      return 1.0f;
    }
    const std::uint32_t largest = __reduce_max_sync(kFullWarp, largest_magnitude(x));
    const int exponent = max(-100, min(static_cast<int>(largest >> 23) - 127, 100));
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] *= power_of_two(-exponent);
    operand.store_values(element(0), pack<T>(x));
    return power_of_two(exponent);
  }
  // As digits.
  __device__ OwnUnit store_digits(const StepOperand<T>& operand, const StepStage& stage) const {
    std::uint32_t largest = 0;
    if constexpr (kHeld == 1) {
      float x[8];
      product(x, 0);
      largest = largest_magnitude(x);
    } else {
      std::uint32_t pair = 0;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) pair = __vmaxu2(pair, largest_pair(value[i]));
      largest = __float_as_uint(larger_of<T>(pair));
    }
    const DigitScale scale(__uint_as_float(__reduce_max_sync(kFullWarp, largest)));
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      float x[8];
      product(x, i);
      scale.begin(x);
      if (element(i) < stage.columns) operand.store_digits(element(i), x, scale.second);
    }
    const int digit = static_cast<int>(threadIdx.x) % 4;  // of the lane's sums
    const float factor = digit == 0 ? 1.0f : digit == 1 ? 256.0f : digit == 2 ? 65536.0f : 0.0f;
    return {scale.unit * factor, scale.tiny};
  }
};

// The lane's B operands of its warp's columns, which every tile of the stage meets.
struct OwnOperand {
  static constexpr int kSteps = kStepPart / 64;
  uint2 word[kSteps];
  OwnUnit unit;

  // From the lane's column at shared address `x`, where the warp's digits are.
  __device__ OwnOperand(std::uint32_t x, OwnUnit of_warp) : unit(of_warp) {
    const std::uint32_t first = x + threadIdx.x / 32 / kStepSlotWarps * kStepChunk;
#pragma unroll
    for (unsigned i = 0; i < kSteps; ++i) word[i] = load_shared_pair(first + i * 64);
  }
  template <typename T>
  __device__ TileSums<int> times(const SlotPart<int>& part) const {
    TileSums<int> sums;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      multiply<T>(sums.upper, part.upper[i], word[i]);
      multiply<T>(sums.lower, part.lower[i], word[i]);
    }
    sums.scale = part.scale;
    return sums;
  }
};

// Where the warps leave their sums of a tile: those of a row behind each other, rows 80 bytes
// apart, so that eight lanes read 16 bytes of a row each without meeting a bank twice.
inline constexpr int kOwnRowBytes = 80;
static_assert(kStepWarps * 4 <= kOwnRowBytes);
static_assert(kStepRows * kOwnRowBytes <= kStepWarps * kStepRows * 8,
              "there is StepShared::partial");

// Of a quad of lanes the first gets the sum of row g and the second that of g + 8.
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

// The warp leaves its sums of the next tile. Returns whether it is the one that finishes the tile.
__device__ inline bool leave_own_sums(StepConsumer& c, StepShared& b, const TileSums<int>& sums,
                                      OwnUnit unit) {
  const int buffer = c.tiles % kStepPartials;
  const unsigned phase = static_cast<unsigned>(c.tiles / kStepPartials) & 1;
  const bool finishes = c.next_finished() == 0;
  ++c.tiles;
  const float sum = own_sum(sums, unit);
  mbarrier_wait(shared_address(&b.taken[buffer]), phase ^ 1);  // the sums here are used up
  if (c.lane % 4 < 2) {
    const int place = (c.lane / 4 + c.lane % 2 * 8) * kOwnRowBytes + c.warp * 4;
    store_shared_32(shared_address(b.partial[buffer]) + static_cast<std::uint32_t>(place),
                    __float_as_uint(sum));
  }
  if (c.warp == 0 && c.lane < kStepRows) {
    b.scales[buffer][c.lane] = static_cast<std::uint16_t>(sums.scale);
  }
  __syncwarp();
  if (!finishes) named_barrier_arrive(kStepSummedBarrier + buffer, kStepConsumers);
  return finishes;
}

// The total of row lane % kStepRows, scaled, once all warps have left their sums: of tile `number`
// of those that StepConsumer counts, by the warp that finishes it.
__device__ inline float take_own_total(StepShared& b, const StepStage& stage, int number) {
  const int buffer = number % kStepPartials;
  named_barrier_sync(kStepSummedBarrier + buffer, kStepConsumers);
  float total = own_total(shared_address(b.partial[buffer]));
  if (stage.norm != nullptr) total *= own_root(b, stage);
  total *= scale_value(b.scales[buffer][threadIdx.x % kStepRows]);
  __syncwarp();
  mbarrier_arrive(shared_address(&b.taken[buffer]));
  return total;
}

// The tiles of this block, in which a warp has one slot each; of the first it has its sums in
// `begun`, if that is not null. Whoever finishes a tile does so when the ring has no slot for it,
// or at the end: all others wait for its sums of the tiles behind.
template <typename T>
__device__ void run_own_tiles(ProductTiles<T>& tiles, const OwnOperand& x,
                              const TileSums<int>* begun) {
  constexpr int kNone = -kStepPartials;
  StepConsumer c(tiles.b);
  StepRing own = c.ring;
  own.advance(c.warp / kStepSlotWarps);
  int owed = kNone;  // the number of the tile that the warp has to finish
  const auto finish = [&] {
    tiles.finish_one(take_own_total(tiles.b, tiles.stage, owed));
    owed = kNone;
  };
  const auto leave = [&](const TileSums<int>& sums) {
    if (leave_own_sums(c, tiles.b, sums, x.unit)) owed = c.tiles - 1;
    tiles.next();
    own.advance(kStepGroups);
  };
  if (begun != nullptr) leave(*begun);
  while (tiles.left()) {
    if (owed != kNone) {
      const bool full = mbarrier_test_wait(own.slot_full(), own.phase);
      if (c.tiles - owed == kStepPartials - 1 || !__all_sync(kFullWarp, full)) finish();
    }
    SlotPart<int> part;
    c.wait_slot(own);
    part.take(own.slot(), c.warp == 0);
    c.release_slot(own);
    leave(x.times<T>(part));
  }
  if (owed != kNone) finish();
  own.retreat(c.warp / kStepSlotWarps);
  c.ring = own;
  c.leave(tiles.b);
}

// A stage of kind kProduct for is_own, with kEarly the warp's slot of the first tile taken before x
// is there (FirstParts); or, with kRoutes, kMoeUp whose router the warps hold.
template <typename T, bool kEarly, bool kRoutes>
__device__ __noinline__ void run_own_product() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OwnVectors<T> vector(b, stage);
  RouterPart<T> router;
  if constexpr (kRoutes) router.take(b, stage);
  ProductTiles<T> tiles(b, stage, StepConsumer(b));
  const StepOperand<T> operand(b, stage);
  const auto complete = [&] {
    vector.await([] { return false; });
    stamp(b, 1);
    if constexpr (kRoutes) {
      const float unit = vector.store_values(operand);
      __syncwarp();  // the warp's elements of x are there
      const float logit = choose_experts(b, stage, router.times(operand.values) * unit);
      vector.leave_squares(b);
      if (threadIdx.x >= 32) {
        named_barrier_arrive(kStepSquaresBarrier, kStepConsumers);
      } else {
        named_barrier_sync(kStepSquaresBarrier, kStepConsumers);
        share_out(b, stage, logit, own_root(b, stage));
      }
    } else {
      vector.leave_squares(b);
    }
    const OwnUnit unit = vector.store_digits(operand, stage);
    __syncwarp();  // the warp's digits are there
    stamp(b, 2);
    return OwnOperand(operand_column<T, int>(operand), unit);
  };
  if constexpr (kEarly) {
    FirstParts<int, 1> first{StepConsumer(b)};
    first.take(0, vector);
    const OwnOperand x = complete();
    const TileSums<int> begun = x.times<T>(first.part[0]);
    run_own_tiles(tiles, x, &begun);
  } else {
    run_own_tiles(tiles, complete(), nullptr);
  }
}

// The warp's part of a tile of long rows, whose slots from the `begun`-th of its group on are not
// in `sums` yet; `x` is the lane's column.
template <typename T>
__device__ void multiply_long_tile(StepConsumer& c, std::uint32_t x, int row_bytes, int begun,
                                   TileSums<int>& sums) {
  const int group = c.warp / kStepSlotWarps, part = c.warp % kStepSlotWarps * kStepPart;
  int k = (group + begun * kStepGroups) * kStepChunk;
  StepRing own = c.ring;
  own.advance(group + begun * kStepGroups);
  for (; k < row_bytes; k += kStepRound, own.advance(kStepGroups)) {
    SlotPart<int> slot;
    c.wait_slot(own);
    slot.take(own.slot(), k == 0 && c.warp == 0);
    c.release_slot(own);
    if (k == 0) sums.scale = slot.scale;
    if (k + part < row_bytes) multiply_slot<T>(sums, slot, x + static_cast<std::uint32_t>(k));
  }
  c.ring.advance((row_bytes + kStepChunk - 1) / kStepChunk);
}

// A stage of kind kProduct for is_own_long, with kEarly the warp's first slot taken before x is
// there.
template <typename T, bool kEarly>
__device__ __noinline__ void run_own_long() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OwnVectors<T, kOwnLongVectors> vectors(b, stage);
  const StepOperand<T> operand(b, stage);
  const std::uint32_t x = operand_column<T, int>(operand);
  OwnUnit unit;
  const auto complete = [&] {
    vectors.await([] { return false; });
    stamp(b, 1);
    unit = vectors.store_digits(operand, stage);
    __syncwarp();  // the warp's digits are there
    stamp(b, 2);
  };
  TileSums<int> sums;
  if constexpr (kEarly) {
    FirstParts<int, 1> first{StepConsumer(b)};
    first.take(0, vectors);
    complete();
    sums = first.template times<T>(x);
  } else {
    complete();
  }
  StepConsumer c(b);
  ProductTiles<T> tiles(b, stage, c);
  // From one slot of a group to its next, in the next tile, it may be farther than kStepGroups.
  const bool may_run_ahead = c.ring.count < kStepFarSlots;
  for (int begun = kEarly ? 1 : 0; tiles.left(); begun = 0, sums = {}) {
    multiply_long_tile<T>(c, x, stage.columns, begun, sums);
    if (leave_own_sums(c, b, sums, unit)) {
      tiles.finish_one(take_own_total(b, stage, c.tiles - 1));
    }
    tiles.next();
    if (may_run_ahead) consumers_sync();
  }
  c.leave(b);
}

// A stage of kind kProduct.
template <typename T>
__device__ void run_any_product(const StepStage& stage) {
  if (is_own(stage)) {
    return stage.begins_early ? run_own_product<T, true, false>()
                              : run_own_product<T, false, false>();
  }
  if (is_own_long(stage)) {
    return stage.begins_early ? run_own_long<T, true>() : run_own_long<T, false>();
  }
  stage.int8_weight ? run_product_stage<T, int>(stage) : run_product_stage<T, float>(stage);
}

}  // namespace engine::cuda
