// The vector kernels for AVX-512; compiled with its flags (kernels/CMakeLists.txt).
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/vector_kernels.inc.h"

namespace engine::cpu {

const Kernels& avx512_kernels() {
  static constexpr Kernels kTable = make_kernels("avx512", "AVX-512", nullptr, nullptr);
  return kTable;
}

}  // namespace engine::cpu
