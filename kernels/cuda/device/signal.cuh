// Signals between blocks through counters in global memory, and barriers of a part of a block.
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

// A barrier of `threads` threads of the block (whole warps), by number: 0 is __syncthreads' own.
template <int kBarrier, int kThreads>
__device__ void partial_barrier() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

}  // namespace engine::cuda
