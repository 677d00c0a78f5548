// How the x of a product comes into a block's shared memory: as elements of T, through rmsnorm
// where the stage has one, and with int8 weights as three planes of signed digits.
//
// rmsnorm, as in rmsnorm.cu: round(round(x ÷ √(mean(x²) + eps)) · weight), sums in fp32; the root's
// inverse is the approximate one, good to two units in its last place.
//
// Digits: with e the exponent of the largest |x|, q = round(x · 2^(21 − e)) and
// q = d₂ · 65536 + d₁ · 256 + d₀, each digit in [−128, 127]. A value whose exponent lies within 13
// of the largest is exact in bf16, within 10 in f16; the error of any is at most 2^-21 of the
// largest. (Behind an rmsnorm the largest is a bound, one percent too high.) So integer tensor
// cores multiply x by int8 weights without converting either. A NaN or an infinity in x makes the
// unit NaN, and with it every sum.
#pragma once

#include "kernels/cuda/device/digits.cuh"
#include "kernels/cuda/step/exchange.cuh"

namespace engine::cuda {

// With int8 weights only a router multiplies the values.
__device__ inline bool has_values(const StepStage& stage) {
  return !stage.int8_weight || stage.kind == StepKind::kMoeUp;
}

// Words of x in shared memory, in each 16 bytes, are in the order 0, 2, 1, 3: a column of the
// product reads two of them at once (step/product.cuh).
__device__ inline uint4 operand_order(uint4 raw) { return make_uint4(raw.x, raw.z, raw.y, raw.w); }

// Where x lies in the block's x_area: its values, then its digits. Shared addresses.
template <typename T>
struct StepOperand {
  std::uint32_t values;  // (K) T
  std::uint32_t digits;  // (kStepDigits, plane) signed bytes
  std::uint32_t plane;

  __device__ StepOperand(const StepShared& b, const StepStage& stage)
      : values(shared_address(b.x_area)),
        digits(values + static_cast<std::uint32_t>(
                            has_values(stage)
                                ? step_align(stage.columns * static_cast<int>(sizeof(T)))
                                : 0)),
        plane(static_cast<std::uint32_t>(step_plane_bytes(stage.columns))) {}

  // Where the value of element `k` is.
  __device__ std::uint32_t place(int k) const {
    return values + static_cast<std::uint32_t>(k) * static_cast<unsigned>(sizeof(T));
  }
  // Eight elements from `k` on.
  __device__ void store_values(int k, uint4 raw) const {
    store_shared(place(k), operand_order(raw));
  }
  // Their digits, which are those of value · scale.
  __device__ void store_digits(int k, const float (&value)[8], float scale) const {
    std::uint32_t word[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) word[i] = digit_word(value[i] * scale);
    const std::uint32_t place = digits + static_cast<std::uint32_t>(k / 16 * 16 + k % 16 / 2);
#pragma unroll
    for (unsigned d = 0; d < kStepDigits; ++d) {
      const unsigned pick = d | (d + 4) << 4;  // byte d of the first operand, byte d of the second
      const std::uint32_t ab = __byte_perm(word[0], word[1], pick),
                          cd = __byte_perm(word[2], word[3], pick);
      const std::uint32_t ef = __byte_perm(word[4], word[5], pick),
                          gh = __byte_perm(word[6], word[7], pick);
      store_shared_32(place + d * plane, __byte_perm(ab, cd, 0x5410));
      store_shared_32(place + d * plane + 8, __byte_perm(ef, gh, 0x5410));
    }
  }
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
  float value[kPerVector<T>];
  unpack<T>(raw, value);
  const auto pair = [&](int i, std::uint32_t by) {
    return multiply_pair<T>(pack_pair<T>(value[i] * scale, value[i + 1] * scale), by);
  };
  return make_uint4(pair(0, weight.x), pair(2, weight.y), pair(4, weight.z), pair(6, weight.w));
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

// Sums over all threads that compute, in a fixed order, and the largest of words.
struct OperandTotals {
  float squares;
  std::uint32_t largest;
};

template <bool kSquares, bool kLargest>
__device__ OperandTotals consumers_totals(StepShared& b, float squares, std::uint32_t largest) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (kSquares) squares = warp_sum(squares);
  if (kLargest) largest = __reduce_max_sync(kFullWarp, largest);
  if (lane == 0) {
    if (kSquares) b.reduce[warp] = squares;
    if (kLargest) b.reduce_max[warp] = largest;
  }
  consumers_sync();
  if (kSquares) squares = warp_sum<kStepWarps>(b.reduce[lane % kStepWarps]);
  if (kLargest) largest = __reduce_max_sync(kFullWarp, b.reduce_max[lane % kStepWarps]);
  return {squares, largest};
}

// Where this block leaves the normalised x, if it is the one that does.
template <typename T>
__device__ T* normed_of(const StepShared& b, const StepStage& stage) {
  return b.block == stage.rotation ? static_cast<T*>(stage.normed) : nullptr;
}

// Up to kHeld vectors of x, of a mixture's choice `slot`, that are the thread's, with the norm's
// weights: asked for when it comes about, from the exchange or from where they lie.
template <typename T, int kHeld, bool kNormed>
struct OperandVectors {
  const uint4* source;  // the thread's first vector of x
  bool exchanged;
  uint4 value[kHeld], weight[kNormed ? kHeld : 1];

  __device__ OperandVectors(const StepShared& b, const StepStage& stage, int slot)
      : exchanged(stage.x_exchange >= 0) {
    const int tid = static_cast<int>(threadIdx.x), vectors = stage.columns / 8;
#pragma unroll
    for (int i = 0; kNormed && i < kHeld; ++i) {
      const int v = tid + i * kStepConsumers;
      weight[i] = v < vectors ? load_constant(static_cast<const T*>(stage.norm) + v * 8)
                              : make_uint4(0, 0, 0, 0);
    }
    const T* x = exchanged ? reinterpret_cast<const T*>(b.exchange + stage.x_exchange)
                           : static_cast<const T*>(stage.x);
    source =
        reinterpret_cast<const uint4*>(x + static_cast<std::int64_t>(slot) * stage.columns) + tid;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const bool exists = tid + i * kStepConsumers < vectors;
      value[i] = exists ? load_relaxed(source + i * kStepConsumers) : make_uint4(0, 0, 0, 0);
    }
  }

  // Until the warp's are there, or until stop().
  template <typename Stop>
  __device__ void await(Stop stop) {
    if (exchanged) await_vectors(value, source, kStepConsumers, stop);
  }

  // x as it is, or normalised. Returns a bound of the magnitudes, with int8 weights.
  template <bool kInt8>
  __device__ float normalise(StepShared& b, const StepStage& stage) {
    if constexpr (kNormed) {
      float squares = 0.0f;
      std::uint32_t most = 0;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        squares += sum_of_squares<T>(value[i]);
        if (kInt8) most = max(most, largest_product<T>(value[i], weight[i]));
      }
      const OperandTotals totals = consumers_totals<true, kInt8>(b, squares, most);
      const float scale = rsqrtf(fmaf(totals.squares, stage.per_column, stage.eps));
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        value[i] = normalise_vector<T>(value[i], weight[i], scale);
      }
      // Two roundings to T may add as much.
      return __uint_as_float(totals.largest) * scale * 1.01f;
    } else if constexpr (kInt8) {
      std::uint32_t pair = 0;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) pair = __vmaxu2(pair, largest_pair(value[i]));
      pair = max(pair & 0xffff, pair >> 16);
      return larger_of<T>(consumers_totals<false, true>(b, 0.0f, pair).largest);
    }
    return 0.0f;
  }

  // The values into shared memory, in the order of the product.
  __device__ void store_values(const StepShared& b, const StepStage& stage) const {
    const int tid = static_cast<int>(threadIdx.x);
    const StepOperand<T> operand(b, stage);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int v = tid + i * kStepConsumers;
      if (v < stage.columns / 8) operand.store_values(v * 8, value[i]);
    }
  }

  // Into shared memory, where x is complete behind this; with kStored its values are there already.
  template <bool kInt8, bool kStored = false>
  __device__ void store(StepShared& b, const StepStage& stage, float largest) const {
    const int tid = static_cast<int>(threadIdx.x), vectors = stage.columns / 8;
    const StepOperand<T> operand(b, stage);
    const DigitScale scale(largest);
    if (kInt8 && tid == 0) {
      b.unit = scale.unit;
      b.tiny = scale.tiny;
    }
    T* normed = kNormed ? normed_of<T>(b, stage) : nullptr;
    const bool wants_values = !kStored && (!kInt8 || has_values(stage));
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int v = tid + i * kStepConsumers;
      if (v >= vectors) break;
      if (normed != nullptr) store_vector(normed + v * 8, value[i]);
      if (wants_values) operand.store_values(v * 8, value[i]);
      if (kInt8) {
        float x[8];
        unpack<T>(value[i], x);
        scale.begin(x);
        operand.store_digits(v * 8, x, scale.second);
      }
    }
    consumers_sync();
  }
};

// The stage kNorm: x, perhaps normalised, becomes the stage's result.
template <typename T, bool kNormed>
__device__ __noinline__ void run_norm() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OperandVectors<T, kStepHeldVectors, kNormed> x(b, stage, 0);
  x.await([] { return false; });
  stamp(b, 1);
  x.template normalise<false>(b, stage);
  T* normed = normed_of<T>(b, stage);
#pragma unroll
  for (int i = 0; i < kStepHeldVectors; ++i) {
    const int v = static_cast<int>(threadIdx.x) + i * kStepConsumers;
    if (v >= stage.columns / 8) break;
    publish_vector(b, stage, v * 8, normed != nullptr ? normed + v * 8 : nullptr, x.value[i]);
  }
}

// prepare_operand for up to kHeld vectors of x a thread.
template <typename T, int kHeld, bool kNormed, bool kInt8>
__device__ __noinline__ void prepare_held(int slot) {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OperandVectors<T, kHeld, kNormed> x(b, stage, slot);
  x.await([] { return false; });
  if (slot == 0) stamp(b, 1);
  x.template store<kInt8>(b, stage, x.template normalise<kInt8>(b, stage));
}

template <typename T, int kHeld>
__device__ void prepare_vectors(const StepStage& stage, int slot) {
  if (stage.norm != nullptr) {
    return stage.int8_weight ? prepare_held<T, kHeld, true, true>(slot)
                             : prepare_held<T, kHeld, true, false>(slot);
  }
  return stage.int8_weight ? prepare_held<T, kHeld, false, true>(slot)
                           : prepare_held<T, kHeld, false, false>(slot);
}

// Brings x, (K), of the stage into shared memory as soon as it is there, in a mixture that of the
// choice `slot`. Every thread that computes calls; x is there after the last barrier here. A thread
// handles the same vectors of x throughout. Every case is a function of its own: this code runs
// once a stage, so the instructions that are fetched for it count.
template <typename T>
__device__ void prepare_operand(const StepStage& stage, int slot) {
  if (stage.columns <= kStepConsumers * 8) return prepare_vectors<T, 1>(stage, slot);
  if (stage.columns <= kStepConsumers * 32) return prepare_vectors<T, 4>(stage, slot);
  prepare_vectors<T, kStepHeldVectors>(stage, slot);
}

}  // namespace engine::cuda
