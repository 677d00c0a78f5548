// Eight floats a vector: AVX2, FMA and F16C.
// Only isa_avx2.cc includes this; see vector_kernels.inc.h for what the functions mean.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/core/dtype.h"

namespace engine::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 8;
  __m256 v;
};

// Register tile of the dot product: 4 × 3 sums, three x and one w in 16 registers.
inline constexpr int kTileRows = 4;
inline constexpr int kTileTokens = 3;
// Sums of a tile for one or two tokens.
inline constexpr int kTallSums = 8;

inline Vec set1(float x) { return {_mm256_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline float sum(Vec a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(Vec a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// The sums of four vectors, by transposing additions.
inline void store_sums4(const Vec* acc, float* out) {
  const __m256 low = _mm256_hadd_ps(acc[0].v, acc[1].v);
  const __m256 high = _mm256_hadd_ps(acc[2].v, acc[3].v);
  const __m256 all = _mm256_hadd_ps(low, high);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec load(const bf16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
inline Vec load(const f16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Vec load(const std::int8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void store(bf16_t* p, Vec a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
  const __m256i wide =
      _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded),
                                                             _mm256_castsi256_ps(quiet), nan)),
                        16);
  const __m256i packed =
      _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, _mm256_setzero_si256()), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store(f16_t* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store(std::int8_t* p, Vec a) {
  const __m256i wide = _mm256_cvtps_epi32(a.v);
  const __m128i halves =
      _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
}

template <typename T>
inline Vec load_part(const T* p, std::int64_t count) {
  T lanes[8] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(T));
  return load(lanes);
}
template <typename T>
inline void store_part(T* p, Vec a, std::int64_t count) {
  T lanes[8];
  store(lanes, a);
  std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(T));
}

// Element i of vector n goes to element n of vector i.
inline void transpose(Vec (&square)[Vec::kLanes]) {
  __m256 pairs[8], fours[8];
#pragma GCC unroll 32
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(square[i].v, square[i + 1].v);
    pairs[i + 1] = _mm256_unpackhi_ps(square[i].v, square[i + 1].v);
  }
#pragma GCC unroll 32
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
#pragma GCC unroll 32
  for (int i = 0; i < 4; ++i) {
    square[i].v = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    square[i + 4].v = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

// x rounded to the nearest integer, ties to even.
inline Vec round(Vec x) {
  return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// p · 2^n for an integral n in [-252, 252], in two exact steps but for a subnormal result.
inline Vec scale(Vec p, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), bias = _mm256_set1_epi32(127);
  const __m256i half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
  const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(p.v, a), b)};
}

}  // namespace
}  // namespace engine::cpu
