// Additions to global memory that nobody waits for (sm_90).
#pragma once

namespace engine::cuda {

// Adds four floats to 16 aligned bytes, each of them atomically; the order among threads is open.
__device__ inline void add_global(float* address, float a, float b, float c, float d) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(a),
               "f"(b), "f"(c), "f"(d)
               : "memory");
}

}  // namespace engine::cuda
