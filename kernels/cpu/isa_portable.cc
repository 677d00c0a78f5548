// The vector kernels of every machine: four floats at a time, no flags beyond the base set.
#include "kernels/cpu/simd_portable.h"
#include "kernels/cpu/vector_kernels.inc.h"

namespace engine::cpu {

const Kernels& portable_kernels() {
  static constexpr Kernels kTable = make_kernels("portable", "portable kernels", nullptr, nullptr);
  return kTable;
}

}  // namespace engine::cpu
