// Warpgroup matrix products (sm_90a): m64nNk16 of 16-bit operands with fp32 accumulation, A from
// registers, B (N × 16, K-major) from shared memory. Warp w of the warpgroup has rows 16w.. of A
// and D; with g = lane / 4 and q = lane % 4 a lane holds
//   A:  a0 (g, 2q..)  a1 (g + 8, 2q..)  a2 (g, 2q + 8..)  a3 (g + 8, 2q + 8..)
//   D:  d[4j], d[4j + 1] (g, 8j + 2q..)  d[4j + 2], d[4j + 3] (g + 8, 8j + 2q..)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace engine::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Orders this warpgroup's accesses of registers before the products issued next.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group of the products issued since the last.
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending groups are still under way.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Limits of registers of the calling warpgroup's threads.
template <int kRegisters>
__device__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Describes rows of 128 bytes in the 128-byte swizzle: 16-byte piece c of row r lies at place
// c ^ (r % 8) of the row; groups of 8 rows follow each other. The tile starts on a multiple of
// 1024; the piece of 16 elements after the first begins 32 bytes, 2 units, later.
__device__ inline std::uint64_t swizzled_tile(std::uint32_t shared_bytes) {
  constexpr std::uint64_t kSwizzle128 = 1ull << 62, kGroupStride = 64ull << 32,
                          kUnused = 1ull << 16;
  return kSwizzle128 | kGroupStride | kUnused | (shared_bytes >> 4 & 0x3fffu);
}

// d += a · bᵀ; b is the tile's descriptor.
template <typename T, int kColumns>
struct Wgmma;

#define ENGINE_F8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define ENGINE_F32(i) ENGINE_F8(i), ENGINE_F8(i + 8), ENGINE_F8(i + 16), ENGINE_F8(i + 24)

#define ENGINE_D256                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
  "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, " \
  "%66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, " \
  "%98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "     \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, "   \
  "%124, %125, %126, %127"
template <>
struct Wgmma<__nv_bfloat16, 256> {
  template <int kCount>
  static __device__ void run(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" ENGINE_D256
                 "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 0;"
                 : ENGINE_F32(0), ENGINE_F32(32), ENGINE_F32(64), ENGINE_F32(96)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};
template <>
struct Wgmma<__half, 256> {
  template <int kCount>
  static __device__ void run(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" ENGINE_D256
                 "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 0;"
                 : ENGINE_F32(0), ENGINE_F32(32), ENGINE_F32(64), ENGINE_F32(96)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};
#undef ENGINE_D256

#define ENGINE_D128                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
  "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
template <>
struct Wgmma<__nv_bfloat16, 128> {
  template <int kCount>
  static __device__ void run(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" ENGINE_D128
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
                 : ENGINE_F32(0), ENGINE_F32(32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};
template <>
struct Wgmma<__half, 128> {
  template <int kCount>
  static __device__ void run(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" ENGINE_D128
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
                 : ENGINE_F32(0), ENGINE_F32(32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};
#undef ENGINE_D128

#define ENGINE_D64                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
template <>
struct Wgmma<__nv_bfloat16, 64> {
  template <int kCount>
  static __device__ void run(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" ENGINE_D64
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
                 : ENGINE_F32(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};
template <>
struct Wgmma<__half, 64> {
  template <int kCount>
  static __device__ void run(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" ENGINE_D64
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
                 : ENGINE_F32(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};
#undef ENGINE_D64

#undef ENGINE_F32
#undef ENGINE_F8

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace engine::cuda
