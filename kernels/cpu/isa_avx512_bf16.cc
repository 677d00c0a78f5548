// The vector kernels for AVX-512 with BF16; compiled with its flags (kernels/CMakeLists.txt).
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/vector_kernels.inc.h"

namespace engine::cpu {
namespace {

// Pairs of bf16 by vdpbf16ps: each product is exact in fp32, each sum rounded to nearest even, as
// with widened operands; subnormal operands and results count as zero.
struct PairProduct {
  using Weight = bf16_t;
  using Input = bf16_t;
  using Operand = __m512bh;
  static constexpr std::int64_t kColumns = 32;
  static Operand get(const bf16_t* p) { return reinterpret_cast<Operand>(_mm512_loadu_si512(p)); }
  static Operand get_part(const bf16_t* p, std::int64_t count) {
    const auto lanes = static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
    return reinterpret_cast<Operand>(_mm512_maskz_loadu_epi16(lanes, p));
  }
  static Vec accumulate(Vec sum, Operand w, Operand x) { return {_mm512_dpbf16_ps(sum.v, w, x)}; }
};

}  // namespace

const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kTable =
      make_kernels("avx512", "AVX-512 with BF16", dot_block_tiles<PairProduct>);
  return kTable;
}

}  // namespace engine::cpu
