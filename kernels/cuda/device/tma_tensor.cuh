// Copies of boxes of a tensor into shared memory by the copy engine (sm_90). What lies outside the
// tensor, negative coordinates included, arrives as zeros and counts as bytes all the same.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/device/cp_async.cuh"

namespace engine::cuda {

// Starts the copy of the map's box at (x, y, z), x innermost, and lets `barrier` count its bytes.
// The map is a __grid_constant__ parameter; `shared` lies on a multiple of 1024 where it swizzles.
__device__ inline void tma_load_3d(void* shared, const CUtensorMap* map, std::uint64_t* barrier,
                                   int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// The same at (x, y, z, w).
__device__ inline void tma_load_4d(void* shared, const CUtensorMap* map, std::uint64_t* barrier,
                                   int x, int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

__device__ inline void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

}  // namespace engine::cuda
