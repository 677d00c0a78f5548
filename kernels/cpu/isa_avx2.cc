// The vector kernels for AVX2, FMA and F16C; compiled with those flags (kernels/CMakeLists.txt).
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/vector_kernels.inc.h"

namespace engine::cpu {

const Kernels& avx2_kernels() {
  static constexpr Kernels kTable = make_kernels("avx2", "AVX2", nullptr, nullptr);
  return kTable;
}

}  // namespace engine::cpu
