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

inline __m512i int8_to_bf16(__m256i bytes) {
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

void int8_to_bf16_row(const std::int8_t* source, bf16_t* destination, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
    _mm512_storeu_si512(destination + i, int8_to_bf16(bytes));
  }
  if (i < count) {
    const auto lanes = static_cast<__mmask32>((std::uint64_t{1} << (count - i)) - 1);
    _mm512_mask_storeu_epi16(destination + i, lanes,
                             int8_to_bf16(_mm256_maskz_loadu_epi8(lanes, source + i)));
  }
}

}  // namespace

const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kTable =
      make_kernels("avx512", "AVX-512 with BF16", dot_block_tiles<PairProduct>, int8_to_bf16_row);
  return kTable;
}

}  // namespace engine::cpu
