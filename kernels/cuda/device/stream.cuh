// Loads and stores of data that is touched once and not again.
#pragma once

#include <cstdint>

namespace engine::cuda {

// 16 bytes of memory that nobody writes meanwhile, kept out of L1. Volatile: it is never removed,
// and stays in order with other volatile instructions such as pdl_wait.
__device__ inline uint4 load_streaming(const void* address) {
  uint4 raw;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
               : "l"(address));
  return raw;
}

// The same, by a policy of the L2 cache (sm_80).
__device__ inline uint4 load_streaming(const void* address, std::uint64_t policy) {
  uint4 raw;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
               : "l"(address), "l"(policy));
  return raw;
}

// A policy of the L2 cache for data that is read once.
__device__ inline std::uint64_t evict_first_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// 16 bytes that the L2 cache may give up first.
__device__ inline void store_streaming(void* address, uint4 raw) {
  __stcs(static_cast<uint4*>(address), raw);
}

}  // namespace engine::cuda
