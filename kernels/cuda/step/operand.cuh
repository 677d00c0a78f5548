// How the x of a product comes into a block's shared memory: as elements of T, through rmsnorm
// where the stage has one, and with int8 weights as three planes of signed digits.
//
// rmsnorm is that of rmsnorm.cu: round(round(x ÷ √(mean(x²) + eps)) · weight), sums in fp32.
//
// Digits: with e the exponent of the largest |x|, q = round(x · 2^(22 − e)) (2^(21 − e) where that
// would not fit) and q = d₂ · 65536 + d₁ · 256 + d₀, each digit in [−128, 127]. A value whose
// exponent lies within 13 of the largest is exact in bf16, within 10 in f16; the error of any is at
// most 2^-21 of the largest. (Behind an rmsnorm the largest is a bound, one percent too high.) So
// integer tensor cores multiply x by int8 weights without converting either. A NaN or an infinity
// in x makes the unit NaN, and with it every sum.
#pragma once

#include "kernels/cuda/device/digits.cuh"
#include "kernels/cuda/step/exchange.cuh"

namespace engine::cuda {

// With int8 weights only a router multiplies the values.
__device__ inline bool has_values(const StepStage& stage) {
  return !stage.int8_weight || stage.kind == StepKind::kMoeUp;
}

// Where x lies in the block's x_area: its values, then its digits.
template <typename T>
struct StepOperand {
  T* values;            // (K)
  std::int8_t* digits;  // (kStepDigits, plane)
  int plane;

  __device__ StepOperand(char* area, const StepStage& stage)
      : values(reinterpret_cast<T*>(area)),
        digits(reinterpret_cast<std::int8_t*>(area) +
               (has_values(stage) ? step_align(stage.columns * static_cast<int>(sizeof(T))) : 0)),
        plane(step_plane_bytes(stage.columns)) {}
};

template <typename T>
__device__ float sum_of_squares(uint4 raw) {
  float value[kPerVector<T>], sum = 0.0f;
  unpack<T>(raw, value);
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) sum += value[i] * value[i];
  return sum;
}

template <typename T>
__device__ uint4 normalise_vector(uint4 raw, uint4 weight, float scale) {
  float value[kPerVector<T>], by[kPerVector<T>];
  unpack<T>(raw, value);
  unpack<T>(weight, by);
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) value[i] = round_to<T>(value[i] * scale) * by[i];
  return pack<T>(value);
}

// The largest magnitude times `by`, as bits: they order as the numbers do, with NaN above all.
template <typename T>
__device__ std::uint32_t largest_product(uint4 raw, uint4 by) {
  float value[kPerVector<T>], weight[kPerVector<T>];
  unpack<T>(raw, value);
  unpack<T>(by, weight);
  std::uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) {
    largest = max(largest, __float_as_uint(fabsf(value[i] * weight[i])));
  }
  return largest;
}

// The largest magnitudes of the low and of the high elements of a vector's words, in one word.
__device__ inline std::uint32_t largest_pair(uint4 raw) {
  const unsigned magnitude = 0x7fff7fff;
  return __vmaxu2(__vmaxu2(raw.x & magnitude, raw.y & magnitude),
                  __vmaxu2(raw.z & magnitude, raw.w & magnitude));
}

// The larger element of a pair of magnitudes.
template <typename T>
__device__ float larger_of(std::uint32_t pair) {
  const auto most = static_cast<unsigned short>(max(pair & 0xffff, pair >> 16));
  return to_f32(*reinterpret_cast<const T*>(&most));
}

// Words of x in shared memory, in each 16 bytes, are in the order 0, 2, 1, 3: a column of the
// product reads two of them at once (step/product.cuh).
__device__ inline uint4 operand_order(uint4 raw) { return make_uint4(raw.x, raw.z, raw.y, raw.w); }

// The digits of eight elements into the three planes at element `k`.
template <typename T>
__device__ void store_digits(std::int8_t* planes, int plane, int k, uint4 raw, DigitScale scale) {
  float value[8];
  unpack<T>(raw, value);
  if (scale.first != 1.0f) {
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= scale.first;
  }
  std::uint32_t word[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    word[i] = digit_word(value[i] * scale.second);
  }
#pragma unroll
  for (unsigned d = 0; d < kStepDigits; ++d) {
    const unsigned pick = d | (d + 4) << 4;  // byte d of the first operand, byte d of the second
    const std::uint32_t ab = __byte_perm(word[0], word[1], pick),
                        cd = __byte_perm(word[2], word[3], pick);
    const std::uint32_t ef = __byte_perm(word[4], word[5], pick),
                        gh = __byte_perm(word[6], word[7], pick);
    auto* words = reinterpret_cast<std::uint32_t*>(planes + d * static_cast<unsigned>(plane) +
                                                   k / 16 * 16 + k % 16 / 2);
    words[0] = __byte_perm(ab, cd, 0x5410);
    words[2] = __byte_perm(ef, gh, 0x5410);
  }
}

// Sums over all threads that compute, in a fixed order, and the largest of words.
struct OperandTotals {
  float squares;
  std::uint32_t largest;
};

__device__ inline OperandTotals consumers_totals(StepShared& b, float squares,
                                                 std::uint32_t largest) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  squares = warp_sum(squares);
  largest = __reduce_max_sync(kFullWarp, largest);
  if (lane == 0) {
    b.reduce[warp] = squares;
    b.reduce_max[warp] = largest;
  }
  consumers_sync();
  OperandTotals totals{0.0f, 0};
#pragma unroll
  for (int w = 0; w < kStepWarps; w += 4) {
    const float4 sums = *reinterpret_cast<const float4*>(b.reduce + w);
    const uint4 most = load_vector(b.reduce_max + w);
    totals.squares = totals.squares + sums.x + sums.y + sums.z + sums.w;
    totals.largest = max(totals.largest, max(max(most.x, most.y), max(most.z, most.w)));
  }
  return totals;
}

// The vectors of x, of a mixture's choice `slot`, that are this thread's: from the
// exchange, as soon as they are there, or from where they lie.
template <typename T, int kHeld>
__device__ void load_operand(const StepShared& b, const StepStage& stage, int slot,
                             uint4 (&value)[kHeld]) {
  const int tid = static_cast<int>(threadIdx.x), vectors = stage.columns / 8;
  const bool exchanged = stage.x_exchange >= 0;
  const std::int64_t skip = static_cast<std::int64_t>(slot) * stage.columns;
  const auto* source = reinterpret_cast<const uint4*>(
      exchanged ? reinterpret_cast<const T*>(b.exchange + stage.x_exchange) + skip
                : static_cast<const T*>(stage.x) + skip);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int v = tid + i * kStepConsumers;
    value[i] = v < vectors ? load_relaxed(source + v) : make_uint4(0, 0, 0, 0);
  }
  if (!exchanged) return;
  bool missing = true;
  while (missing) {
    missing = false;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (has_absent(value[i])) {
        value[i] = load_relaxed(source + tid + i * kStepConsumers);
        missing = true;
      }
    }
  }
}

// prepare_operand for up to kHeld vectors of x a thread, which stay in its registers.
template <typename T, int kHeld>
__device__ __noinline__ void prepare_held(int slot) {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  const int tid = static_cast<int>(threadIdx.x), vectors = stage.columns / 8;
  const T* norm = static_cast<const T*>(stage.norm);
  const StepOperand<T> operand(b.x_area, stage);
  uint4 value[kHeld], weight[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int v = tid + i * kStepConsumers;
    weight[i] = norm != nullptr && v < vectors ? load_vector(norm + v * 8) : make_uint4(0, 0, 0, 0);
  }
  load_operand<T>(b, stage, slot, value);
  if (slot == 0) stamp(b, 1);
  float largest = 0.0f;
  if (norm != nullptr) {
    float squares = 0.0f;
    std::uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      squares += sum_of_squares<T>(value[i]);
      if (stage.int8_weight) most = max(most, largest_product<T>(value[i], weight[i]));
    }
    const OperandTotals totals = consumers_totals(b, squares, most);
    const float scale =
        1.0f / sqrtf(totals.squares / static_cast<float>(stage.columns) + stage.eps);
    // Two roundings to T may add as much.
    largest = __uint_as_float(totals.largest) * scale * 1.01f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      value[i] = normalise_vector<T>(value[i], weight[i], scale);
    }
  } else if (stage.int8_weight) {
    std::uint32_t pair = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) pair = __vmaxu2(pair, largest_pair(value[i]));
    pair = max(pair & 0xffff, pair >> 16);
    largest = larger_of<T>(consumers_totals(b, 0.0f, pair).largest);
  }
  const bool only_copies = stage.kind == StepKind::kNorm;
  const DigitScale digit_scale(largest);
  if (tid == 0) {
    b.unit = digit_scale.unit;
    b.tiny = digit_scale.tiny;
  }
  T* normed = b.block == stage.rotation ? static_cast<T*>(stage.normed) : nullptr;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int v = tid + i * kStepConsumers;
    if (v >= vectors) break;
    if (only_copies) {
      publish_vector(b, stage, v * 8, normed != nullptr ? normed + v * 8 : nullptr, value[i]);
      continue;
    }
    if (normed != nullptr) store_vector(normed + v * 8, value[i]);
    if (has_values(stage)) store_vector(operand.values + v * 8, operand_order(value[i]));
    if (stage.int8_weight) {
      store_digits<T>(operand.digits, operand.plane, v * 8, value[i], digit_scale);
    }
  }
  consumers_sync();  // x is complete
}

// Brings x, (K), of the stage into shared memory as soon as it is there, in a mixture that of the
// choice `slot`. Every thread that computes calls; x is there after the last barrier here. A thread
// handles the same vectors of x throughout; code for many would push the products of a step whose x
// is short out of the instruction cache.
template <typename T>
__device__ void prepare_operand(const StepStage& stage, int slot) {
  if (stage.columns <= kStepConsumers * 8) return prepare_held<T, 1>(slot);
  if (stage.columns <= kStepConsumers * 32) return prepare_held<T, 4>(slot);
  prepare_held<T, kStepHeldVectors>(slot);
}

}  // namespace engine::cuda
