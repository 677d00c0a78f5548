// The vector kernels for AVX-512 with BF16 and VNNI; compiled with its flags
// (kernels/CMakeLists.txt).
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

// 2^exponent, for exponents of normal doubles.
inline double power_of_two(int exponent) {
  return __builtin_bit_cast(double, static_cast<std::int64_t>(exponent + 1023) << 52);
}

double to_digits_row(const float* x, std::int64_t count, std::uint8_t* digits, std::int64_t plane) {
  Vec most = set1(0.0f);
  __mmask16 odd = 0;  // lanes that held something that is not finite
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto&) {
    const Vec v = get(x + i);
    most = max(Vec{_mm512_abs_ps(v.v)}, most);
    constexpr int kNanOrInfinity = 0x01 | 0x80 | 0x08 | 0x10;
    odd = static_cast<__mmask16>(odd | _mm512_fpclass_ps_mask(v.v, kNanOrInfinity));
  });
  const float largest = max_lane(most);
  if (odd != 0) return __builtin_nan("");
  if (largest == 0.0f) return 0.0;
  int shift = 22 - (__builtin_ilogbf(largest));
  if (static_cast<double>(largest) * power_of_two(shift) > 8388607.0) --shift;
  // In two factors: either is a normal float.
  const int first = shift > 100 ? 64 : 0;
  const Vec a = set1(static_cast<float>(power_of_two(first))),
            b = set1(static_cast<float>(power_of_two(shift - first)));
  const __m512i zero = _mm512_set1_epi32(static_cast<int>(kDigitZero));
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto&) {
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(mul(mul(get(x + i), a), b).v), zero);
    const std::int64_t rest = count - i;
    const auto lanes = static_cast<__mmask16>(rest >= 16 ? 0xffff : (std::uint32_t{1} << rest) - 1);
    _mm512_mask_cvtepi32_storeu_epi8(digits + i, lanes, q);
    _mm512_mask_cvtepi32_storeu_epi8(digits + plane + i, lanes, _mm512_srli_epi32(q, 8));
    _mm512_mask_cvtepi32_storeu_epi8(digits + 2 * plane + i, lanes, _mm512_srli_epi32(q, 16));
  });
  return power_of_two(-shift);
}

// The sums of the lanes of four vectors.
inline __m128i lane_sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i quads =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(quads), _mm512_extracti64x4_epi64(quads, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// sum += the products of four unsigned and four signed bytes, lane by lane. In assembly, since GCC
// 12 copies the intrinsic's sum to another register and back.
inline void add_products(__m512i& sum, __m512i digits, __m512i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(digits), "v"(weights));
}

// Sums of a row's digits, and of its weights, each lane its own columns.
struct DigitSums {
  __m512i d0, d1, d2, weights;
};

// Adds 64 columns: x holds their digits, plane after plane.
inline void add_digits(DigitSums& sums, const __m512i (&x)[kDigits], __m512i weights) {
  add_products(sums.d0, x[0], weights);
  add_products(sums.d1, x[1], weights);
  add_products(sums.d2, x[2], weights);
  add_products(sums.weights, _mm512_set1_epi8(1), weights);
}

// kRows rows by one token. vpdpbusd multiplies unsigned digits by signed weights; what a digit of
// kDigitZero adds is taken off again by the sum of the weights. Four rows: with more, or fewer, one
// core keeps less of memory busy (docs/performance.md).
template <int kRows>
inline void digit_tile(const DigitBlock& block, std::int64_t row, std::int64_t token) {
  const std::int8_t* w = block.w + row * block.w_stride;
  const std::uint8_t* x = block.digits + token * kDigits * block.plane;
  const auto digits_at = [&](std::int64_t k, __m512i(&digits)[kDigits]) {
    for (std::int64_t d = 0; d < kDigits; ++d) {
      digits[d] = _mm512_loadu_si512(x + d * block.plane + k);
    }
  };
  DigitSums acc[kRows] = {};
  __m512i digits[kDigits];
  const std::int64_t whole = block.columns / 64 * 64;
  for (std::int64_t k = 0; k < whole; k += 64) {
    digits_at(k, digits);
#pragma GCC unroll 32
    for (int n = 0; n < kRows; ++n) {
      const std::int8_t* from = w + n * block.w_stride + k;
      __builtin_prefetch(from + kRows * block.w_stride, 0, 2);
      add_digits(acc[n], digits, _mm512_loadu_si512(from));
    }
  }
  if (const std::int64_t rest = block.columns - whole; rest > 0) {
    const auto lanes = static_cast<__mmask64>((std::uint64_t{1} << rest) - 1);
    digits_at(whole, digits);
#pragma GCC unroll 32
    for (int n = 0; n < kRows; ++n) {
      add_digits(acc[n], digits, _mm512_maskz_loadu_epi8(lanes, w + n * block.w_stride + whole));
    }
  }
  float* out = block.out + token * block.out_stride + row;
#pragma GCC unroll 32
  for (int n = 0; n < kRows; ++n) {
    alignas(16) std::int32_t sums[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(sums),
                    lane_sums(acc[n].d0, acc[n].d1, acc[n].d2, acc[n].weights));
    const std::int64_t total = sums[0] + std::int64_t{256} * sums[1] +
                               std::int64_t{65536} * sums[2] - kDigitZero * sums[3];
    const auto value = static_cast<float>(static_cast<double>(total) * block.units[token]);
    out[n] = block.accumulate ? out[n] + value : value;
  }
}

void dot_block_digits(const DigitBlock& block) {
  constexpr int kRows = 4;
  std::int64_t row = 0;
  for (; row + kRows <= block.rows; row += kRows) {
    for (std::int64_t m = 0; m < block.tokens; ++m) digit_tile<kRows>(block, row, m);
  }
  for (; row < block.rows; ++row) {
    for (std::int64_t m = 0; m < block.tokens; ++m) digit_tile<1>(block, row, m);
  }
}

}  // namespace

const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kTable =
      make_kernels("avx512", "AVX-512 with BF16 and VNNI", dot_block_tiles<PairProduct>,
                   int8_to_bf16_row, to_digits_row, dot_block_digits);
  return kTable;
}

}  // namespace engine::cpu
