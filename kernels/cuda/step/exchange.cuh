// How a stage's results reach the blocks that read them, in the same launch.
//
// The exchange is memory with a place for every element that a later stage reads, all "absent" when
// a launch starts: a pattern of bits, a NaN, that no computation yields and that is replaced where
// it turns up. Whoever computes an element stores it there; whoever needs it reads until it is not
// absent. So an element is its own signal: no fence, no counter, and no second trip to memory,
// where a signal would take one for the fence, one for the counter and one for the data. An element
// is written once a launch. A launch uses one of two banks and makes the other absent for the next.
#pragma once

#include "kernels/cuda/device/signal.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/step/block.cuh"

namespace engine::cuda {

inline constexpr unsigned short kStepAbsent = 0xffff, kStepNan = 0x7fff;

// Whether any of eight elements is absent.
__device__ inline bool has_absent(uint4 raw) {
  const std::uint32_t most = __vmaxu2(__vmaxu2(raw.x, raw.y), __vmaxu2(raw.z, raw.w));
  return max(most & 0xffff, most >> 16) == kStepAbsent;
}

// A word whose halves are not absent: a NaN that looks so becomes another.
__device__ inline std::uint32_t present(std::uint32_t word) {
  return word ^ (__vcmpeq2(word, 0xffffffffu) & 0x80008000u);
}

// Element `index` of the exchange, as soon as it is there.
__device__ inline unsigned short await_element(const StepShared& b, int index) {
  unsigned short bits = load_relaxed(b.exchange + index);
  while (bits == kStepAbsent) bits = load_relaxed(b.exchange + index);
  return bits;
}

// Eight elements from `index` on, as soon as they are there; `index` is a multiple of 8.
__device__ inline uint4 await_vector(const StepShared& b, int index) {
  const auto* address = reinterpret_cast<const uint4*>(b.exchange + index);
  uint4 raw = load_relaxed(address);
  while (has_absent(raw)) raw = load_relaxed(address);
  return raw;
}

// Vectors of a lane, the first loaded from `address` and each other `apart` vectors behind the one
// before, again until nothing of them is absent, or until stop(), which is asked between the loads;
// every lane calls. As long as anything is missing to the warp, the last lane that misses something
// asks for its last such vector alone: elements come about in their order, and if all asked, over
// all blocks, they would take a good part of what L2 delivers.
template <int kHeld, typename Stop>
__device__ void await_vectors(uint4 (&raw)[kHeld], const uint4* address, int apart, Stop stop) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (;;) {
    int last = -1;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (has_absent(raw[i])) last = i;
    }
    const unsigned lanes = __ballot_sync(kFullWarp, last >= 0);
    if (lanes == 0) return;
    const int asks = 31 - __clz(static_cast<int>(lanes));
    for (;;) {
      if (__any_sync(kFullWarp, stop())) return;
      bool absent = false;
      if (lane == asks) absent = has_absent(load_relaxed(address + last * apart));
      if (!__any_sync(kFullWarp, absent)) break;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (has_absent(raw[i])) raw[i] = load_relaxed(address + i * apart);
    }
  }
}

// The bits of a result that are not absent.
template <typename T>
__device__ unsigned short present_bits(T value) {
  const auto bits = *reinterpret_cast<const unsigned short*>(&value);
  return bits == kStepAbsent ? kStepNan : bits;
}

// Element `i` of what the stage computes: for later stages, and where the stage's result is stored.
template <typename T>
__device__ void publish(const StepShared& b, const StepStage& stage, int i, T* stored, T value) {
  if (stage.exchange >= 0) {
    const unsigned short bits = present_bits(value);
    store_relaxed(b.exchange + stage.exchange + i, bits);
  }
  if (stage.stores_out) *stored = value;
}

// The same of eight.
__device__ inline void publish_vector(const StepShared& b, const StepStage& stage, int i,
                                      void* stored, uint4 raw) {
  if (stage.exchange >= 0) {
    store_relaxed(reinterpret_cast<uint4*>(b.exchange + stage.exchange + i),
                  make_uint4(present(raw.x), present(raw.y), present(raw.z), present(raw.w)));
  }
  if (stored != nullptr && stage.stores_out) store_vector(stored, raw);
}

// Makes the other bank absent, a share a block. Threads that compute.
__device__ inline void clear_other_bank(const StepShared& b, const StepLaunch& launch) {
  const unsigned other = b.parity ^ 1;
  auto* bank = reinterpret_cast<uint4*>(launch.exchange +
                                        static_cast<std::int64_t>(other) * launch.exchange_bank);
  const std::uint32_t vectors = launch.control->used[other] / 8;
  for (std::uint32_t i = blockIdx.x * kStepConsumers + threadIdx.x; i < vectors;
       i += gridDim.x * kStepConsumers) {
    store_vector(bank + i, make_uint4(~0u, ~0u, ~0u, ~0u));
  }
}

}  // namespace engine::cuda
