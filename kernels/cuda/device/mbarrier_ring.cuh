// The ring that a producer and its consumers walk in step, and what warpgroups with different roles
// need: named barriers, registers.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/mbarrier.cuh"

namespace engine::cuda {

// Named barrier `id` (1 to 15) of `threads` threads: wait for all, or arrive without waiting.
__device__ inline void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Changes the registers of every thread of the calling warpgroup (sm_90a).
template <int kRegisters>
__device__ void give_registers_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// A place in a ring of kStages slots. The barrier of a slot completes one phase a lap; consumers
// wait for `parity` of "full", the producer for the opposite of "empty", free on the first lap.
template <int kStages>
struct RingPlace {
  int slot = 0;
  std::uint32_t parity = 0;

  __device__ void advance() {
    if (++slot == kStages) slot = 0, parity ^= 1;
  }
};

}  // namespace engine::cuda
