// How the x of a product comes into a block's shared memory: as elements of T, through rmsnorm
// where the stage has one, and with int8 weights as three planes of signed digits.
//
// rmsnorm is that of rmsnorm.cu: round(round(x ÷ √(mean(x²) + eps)) · weight), sums in fp32.
//
// Digits: with e the exponent of the largest |x|, q = round(x · 2^(22 − e)) (2^(21 − e) where that
// would not fit) and q = d₂ · 65536 + d₁ · 256 + d₀, each digit in [−128, 127]. A value whose
// exponent lies within 14 of the largest is exact in bf16, within 11 in f16; the error of any is at
// most 2^-22 of the largest. So integer tensor cores multiply x by int8 weights without converting
// either. A NaN or an infinity in x makes the unit NaN, and with it every sum.
#pragma once

#include <math_constants.h>

#include "kernels/cuda/step/block.cuh"

namespace engine::cuda {

// Where x lies in the block's x_area: its values, and behind them, with int8 weights, its digits.
template <typename T>
struct StepOperand {
  T* values;            // (K)
  std::int8_t* digits;  // (kStepDigits, plane)
  int plane;

  __device__ StepOperand(char* area, int columns)
      : values(reinterpret_cast<T*>(area)),
        digits(reinterpret_cast<std::int8_t*>(area) +
               step_align(columns * static_cast<int>(sizeof(T)))),
        plane(step_plane_bytes(columns)) {}
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

// The largest magnitude, infinity where there is a NaN.
template <typename T>
__device__ float largest_of(uint4 raw) {
  float value[kPerVector<T>], largest = 0.0f;
  unpack<T>(raw, value);
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) {
    const float magnitude = fabsf(value[i]);
    largest = fmaxf(largest, isfinite(magnitude) ? magnitude : CUDART_INF_F);
  }
  return largest;
}

// Powers of two that bring the largest |x| just under 2²³, in two factors that are both normal.
struct DigitScale {
  float first, second;

  __device__ explicit DigitScale(float largest) : first(1.0f), second(0.0f) {
    if (largest == 0.0f || isinf(largest)) return;
    const int exponent = ilogbf(largest);
    int shift = 22 - exponent;
    if (ldexpf(largest, shift) > 8355711.0f) --shift;
    if (shift > 100) first = 0x1p64f, shift -= 64;
    second = ldexpf(1.0f, shift);
  }
};

// The digits of eight elements into the three planes at element `k`.
template <typename T>
__device__ void store_digits(std::int8_t* planes, int plane, int k, uint4 raw, DigitScale scale) {
  float value[8];
  unpack<T>(raw, value);
  std::uint32_t word[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    // The bytes of q + 0x808080 are the digits plus 128 each.
    const int q = __float2int_rn(value[i] * scale.first * scale.second);
    word[i] = static_cast<std::uint32_t>(q + 0x808080) ^ 0x808080u;
  }
#pragma unroll
  for (unsigned d = 0; d < kStepDigits; ++d) {
    const unsigned pick = d | (d + 4) << 4;  // byte d of the first operand, byte d of the second
    const std::uint32_t ab = __byte_perm(word[0], word[1], pick),
                        cd = __byte_perm(word[2], word[3], pick);
    const std::uint32_t ef = __byte_perm(word[4], word[5], pick),
                        gh = __byte_perm(word[6], word[7], pick);
    *reinterpret_cast<uint2*>(planes + d * static_cast<unsigned>(plane) + k) =
        make_uint2(__byte_perm(ab, cd, 0x5410), __byte_perm(ef, gh, 0x5410));
  }
}

// Waits for the stage before `index` (not at all where it is negative) and brings x, (K), into
// shared memory. Every thread that computes calls; x is there after the last barrier here. A thread
// handles the same vectors of x throughout. The loops stay rolled: this code runs once a stage, and
// would push the products out of the instruction cache.
template <typename T>
__device__ __noinline__ void prepare_operand(StepShared& b, const StepStage& stage, const T* x,
                                             int index) {
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int vectors = stage.columns / 8;
  const T* norm = static_cast<const T*>(stage.norm);
  const StepOperand<T> operand(b.x_area, stage.columns);
  uint4 first_norm = make_uint4(0, 0, 0, 0);
  if (norm != nullptr && tid < vectors) first_norm = load_vector(norm + tid * 8);  // of no stage
  if (index >= 0) {
    await_stage(b, index);
    stamp(b, index, 1);
  }
#pragma unroll 1
  for (int v = tid; v < vectors; v += kStepConsumers) {  // past L1, which is not coherent
    cp_async_16(operand.values + v * 8, x + v * 8, true);
  }
  cp_async_commit();
  cp_async_wait<0>();
  if (norm != nullptr) {
    T* normed = b.block == stage.rotation ? static_cast<T*>(stage.normed) : nullptr;
    float squares = 0.0f;
#pragma unroll 1
    for (int v = tid; v < vectors; v += kStepConsumers) {
      squares += sum_of_squares<T>(load_vector(operand.values + v * 8));
    }
    squares = consumers_sum(squares, b.reduce, warp, lane);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(stage.columns) + stage.eps);
#pragma unroll 1
    for (int v = tid; v < vectors; v += kStepConsumers) {
      const uint4 weight = v == tid ? first_norm : load_vector(norm + v * 8);
      const uint4 value = normalise_vector<T>(load_vector(operand.values + v * 8), weight, scale);
      store_vector(operand.values + v * 8, value);
      if (normed != nullptr) store_vector(normed + v * 8, value);
    }
  }
  if (stage.int8_weight) {
    float largest = 0.0f;
#pragma unroll 1
    for (int v = tid; v < vectors; v += kStepConsumers) {
      largest = fmaxf(largest, largest_of<T>(load_vector(operand.values + v * 8)));
    }
    largest = consumers_max(largest, b.reduce_max, warp, lane);
    const DigitScale digit_scale(largest);
    if (tid == 0) {
      b.unit = isinf(largest) ? CUDART_NAN_F : largest == 0.0f ? 0.0f : 1.0f / digit_scale.second;
      b.tiny = 1.0f / digit_scale.first;
    }
#pragma unroll 1
    for (int v = tid; v < vectors; v += kStepConsumers) {
      store_digits<T>(operand.digits, operand.plane, v * 8, load_vector(operand.values + v * 8),
                      digit_scale);
    }
  }
  consumers_sync();  // x is complete
}

}  // namespace engine::cuda
