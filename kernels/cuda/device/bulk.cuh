// Bulk asynchronous copies into shared memory, which complete on an mbarrier (sm_90).
#pragma once

#include <cstdint>

#include "kernels/cuda/device/mbarrier.cuh"

namespace engine::cuda {

// Copies `bytes` (a multiple of 16) and counts them on `barrier`. Both ends on a multiple of 16.
__device__ inline void bulk_copy(std::uint32_t shared, const void* global, unsigned bytes,
                                 std::uint32_t barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// The same without a policy.
__device__ inline void bulk_copy(std::uint32_t shared, const void* global, unsigned bytes,
                                 std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}

}  // namespace engine::cuda
