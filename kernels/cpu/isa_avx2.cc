// The vector kernels for AVX2, FMA and F16C; compiled with those flags (kernels/CMakeLists.txt).
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/vector_kernels.inc.h"
// Builds on what stands before it.
#include "kernels/cpu/panel_kernels.inc.h"

namespace engine::cpu {

const Kernels& avx2_kernels() {
  static constexpr Kernels kTable = [] {
    Kernels table = make_kernels("avx2", "AVX2", nullptr, nullptr);
    table.dot_block_panels[0] = dot_block_panels<float>;
    table.dot_block_panels[1] = dot_block_panels<f16_t>;
    table.dot_block_panels[2] = dot_block_panels<bf16_t>;
    table.dot_block_panels[3] = dot_block_panels<std::int8_t>;
    return table;
  }();
  return kTable;
}

}  // namespace engine::cpu
