// Sixteen floats a vector: AVX-512 F, BW, VL and DQ.
// Included by isa_avx512.cc and isa_avx512_bf16.cc; see
// vector_kernels.inc.h for what the functions mean.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/core/dtype.h"

namespace engine::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 16;
  __m512 v;
};

// Register tile of the dot product: 6 × 4 sums, four x and one w in 32 registers.
inline constexpr int kTileRows = 6;
inline constexpr int kTileTokens = 4;
// Sums of a tile for one or two tokens.
inline constexpr int kTallSums = 16;

inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline __m256 fold(Vec a) {
  return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}
inline float sum(Vec a) {
  const __m256 eight = fold(a);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(Vec a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// The sums of four vectors, by transposing additions.
inline void store_sums4(const Vec* acc, float* out) {
  const __m256 low = _mm256_hadd_ps(fold(acc[0]), fold(acc[1]));
  const __m256 high = _mm256_hadd_ps(fold(acc[2]), fold(acc[3]));
  const __m256 all = _mm256_hadd_ps(low, high);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1u);
}
inline Vec widen_bf16(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline __m256i narrow_bf16(Vec a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
}

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load(const bf16_t* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load(const f16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec load(const std::int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store(bf16_t* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a));
}
inline void store(f16_t* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline void store(std::int8_t* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

inline Vec load_part(const float* p, std::int64_t count) {
  return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
inline Vec load_part(const bf16_t* p, std::int64_t count) {
  return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(count), p));
}
inline Vec load_part(const f16_t* p, std::int64_t count) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), p))};
}
inline Vec load_part(const std::int8_t* p, std::int64_t count) {
  const __m128i bytes = _mm_maskz_loadu_epi8(first_lanes(count), p);
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline void store_part(float* p, Vec a, std::int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), a.v);
}
inline void store_part(bf16_t* p, Vec a, std::int64_t count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), narrow_bf16(a));
}
inline void store_part(f16_t* p, Vec a, std::int64_t count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count),
                           _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_part(std::int8_t* p, Vec a, std::int64_t count) {
  _mm_mask_storeu_epi8(p, first_lanes(count), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

// x rounded to the nearest integer, ties to even.
inline Vec round(Vec x) {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// p · 2^n for an integral n.
inline Vec scale(Vec p, Vec n) { return {_mm512_scalef_ps(p.v, n.v)}; }

}  // namespace
}  // namespace engine::cpu
