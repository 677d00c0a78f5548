// What blocks tell each other through global memory, and barriers of a part of a block.
#pragma once

#include <cstdint>

namespace engine::cuda {

// Adds to a counter; what this thread wrote, or saw written before a barrier, is visible to whoever
// then acquires it.
__device__ inline void signal_add(std::uint32_t* counter, std::uint32_t amount) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(amount) : "memory");
}

// The same, returning the value before.
__device__ inline std::uint32_t signal_exchange_add(std::uint32_t* counter, std::uint32_t amount) {
  std::uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(amount)
               : "memory");
  return before;
}

__device__ inline std::uint32_t signal_read(const std::uint32_t* counter) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Adds one to a counter that returns to 0 after `last`; returns the value before. What this thread
// wrote, or saw written before a barrier, is visible to whoever adds later.
__device__ inline std::uint32_t signal_exchange_increment(std::uint32_t* counter,
                                                          std::uint32_t last) {
  std::uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(last)
               : "memory");
  return before;
}

// Loads and stores that other blocks' may meet: past L1, each element whole, in no order.
__device__ inline uint4 load_relaxed(const uint4* address) {
  uint4 raw;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
               : "l"(address)
               : "memory");
  return raw;
}
__device__ inline unsigned short load_relaxed(const unsigned short* address) {
  unsigned short value;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void store_relaxed(uint4* address, uint4 raw) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(raw.x),
               "r"(raw.y), "r"(raw.z), "r"(raw.w)
               : "memory");
}
__device__ inline void store_relaxed(unsigned short* address, unsigned short value) {
  asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(address), "h"(value) : "memory");
}

// A barrier of `threads` threads of the block (whole warps), by number: 0 is __syncthreads' own.
template <int kBarrier, int kThreads>
__device__ void partial_barrier() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

}  // namespace engine::cuda
