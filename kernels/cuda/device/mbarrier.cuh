// Barriers of arrivals and of bytes in shared memory (sm_90).
//
// An mbarrier is a 64-bit word: a phase ends when its arrivals, and the bytes that they announced,
// are in. Phases alternate in parity, the first has parity 0; a waiter must never be two phases
// late. The functions take the 32-bit shared address, which a loop keeps in a register, or a
// pointer.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/cp_async.cuh"

namespace engine::cuda {

using Mbarrier = std::uint64_t;

// Sets the arrivals that complete a phase. One thread; fence_mbarrier_init and a barrier of the
// block before anyone else uses it.
__device__ inline void mbarrier_init(std::uint32_t barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void mbarrier_init(Mbarrier* barrier, unsigned arrivals) {
  mbarrier_init(shared_address(barrier), arrivals);
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void mbarrier_arrive(Mbarrier* barrier) {
  mbarrier_arrive(shared_address(barrier));
}

// One arrival, and `bytes` more to come by copies before the phase ends.
__device__ inline void mbarrier_arrive_expect(std::uint32_t barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline void mbarrier_arrive_expect(Mbarrier* barrier, unsigned bytes) {
  mbarrier_arrive_expect(shared_address(barrier), bytes);
}

// Whether the phase of this parity has ended; may wait a while before it says no.
__device__ inline bool mbarrier_try_wait(std::uint32_t barrier, unsigned parity) {
  unsigned done;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// The same without waiting.
__device__ inline bool mbarrier_test_wait(std::uint32_t barrier, unsigned parity) {
  unsigned done;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// Waits for the end of the phase of this parity; what arrived before it is visible then.
__device__ inline void mbarrier_wait(std::uint32_t barrier, unsigned parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}
__device__ inline void mbarrier_wait(Mbarrier* barrier, unsigned parity) {
  mbarrier_wait(shared_address(barrier), parity);
}

// Whether this lane is the one that acts for its warp, all of which calls; the same one every time.
// The compiler takes what only that lane does as done once.
__device__ inline bool elect_one() {
  unsigned elected;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "elect.sync _|p, 0xffffffff;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(elected));
  return elected != 0;
}

// Orders this thread's ordinary writes to shared memory before later reads by the tensor cores and
// the copy engine, which go past the ordinary path.
__device__ inline void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace engine::cuda
