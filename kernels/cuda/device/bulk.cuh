// Bulk asynchronous copies into shared memory and the barriers that they complete on (sm_90).
//
// An mbarrier is a 64-bit word of shared memory: a phase ends when its arrivals and the bytes it
// expects are in. Waiting is on the parity of a phase, so a waiter must never be two phases late.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/cp_async.cuh"

namespace engine::cuda {

using Mbarrier = std::uint64_t;

// Functions on the way of every tile take the 32-bit shared address of a barrier: kept in a
// register, it needs no conversion each time.

__device__ inline void mbarrier_init(Mbarrier* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival, and `bytes` more to come by bulk copies before the phase ends.
__device__ inline void mbarrier_arrive_expect(std::uint32_t barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

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

// Waits for the end of the phase of this parity; what arrived before it is visible then.
__device__ inline void mbarrier_wait(std::uint32_t barrier, unsigned parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}

// A cache policy for data that is read once.
__device__ inline std::uint64_t evict_first_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// A cache policy for data that is wanted again.
__device__ inline std::uint64_t evict_last_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Copies `bytes` (a multiple of 16) and counts them on `barrier`. Both ends on a multiple of 16.
__device__ inline void bulk_copy(std::uint32_t shared, const void* global, unsigned bytes,
                                 std::uint32_t barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// Brings `bytes` (a multiple of 16) into L2.
__device__ inline void bulk_prefetch(const void* global, unsigned bytes, std::uint64_t policy) {
  asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(global),
               "r"(bytes), "l"(policy)
               : "memory");
}

}  // namespace engine::cuda
