// Four floats a vector in the compiler's own vector extension: SSE2 on x86-64, NEON on AArch64.
// Only isa_portable.cc includes this; see vector_kernels.inc.h for what the functions mean.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/core/dtype.h"

namespace engine::cpu {
namespace {

typedef float Floats __attribute__((vector_size(16)));
typedef std::int32_t Ints __attribute__((vector_size(16)));
typedef std::uint16_t Halves __attribute__((vector_size(16)));

struct Vec {
  static constexpr int kLanes = 4;
  Floats v;
};

// Register tile of the dot product: 4 × 2 sums, two x, one w and a product in 16 registers.
inline constexpr int kTileRows = 4;
inline constexpr int kTileTokens = 2;
// Sums of a tile for one or two tokens.
inline constexpr int kTallSums = 8;

inline Vec set1(float x) { return {Floats{x, x, x, x}}; }
inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float max_lane(Vec a) {
  const float low = a.v[0] > a.v[1] ? a.v[0] : a.v[1], high = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return low > high ? low : high;
}
inline void store_sums4(const Vec* acc, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(acc[i]);
}

inline Vec load(const float* p) {
  Vec r;
  std::memcpy(&r.v, p, sizeof(r.v));
  return r;
}
inline Vec load(const bf16_t* p) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  Halves bits = {};
  std::memcpy(&bits, p, 4 * sizeof(bf16_t));
  const Halves zero_below = {8, 0, 9, 1, 10, 2, 11, 3};
  return {reinterpret_cast<Floats>(__builtin_shuffle(bits, Halves{}, zero_below))};
}
inline Vec load(const f16_t* p) {
  return {Floats{f16_to_float(p[0].bits), f16_to_float(p[1].bits), f16_to_float(p[2].bits),
                 f16_to_float(p[3].bits)}};
}
inline Vec load(const std::int8_t* p) {
  return {Floats{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]),
                 static_cast<float>(p[3])}};
}
inline void store(float* p, Vec a) { std::memcpy(p, &a.v, sizeof(a.v)); }
inline void store(bf16_t* p, Vec a) {
  for (int i = 0; i < 4; ++i) p[i].bits = float_to_bf16(a.v[i]);
}
inline void store(f16_t* p, Vec a) {
  for (int i = 0; i < 4; ++i) p[i].bits = float_to_f16(a.v[i]);
}
inline void store(std::int8_t* p, Vec a) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<std::int8_t>(a.v[i]);
}

template <typename T>
Vec load_part(const T* p, std::int64_t count) {
  T lanes[4] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(T));
  return load(lanes);
}
template <typename T>
void store_part(T* p, Vec a, std::int64_t count) {
  T lanes[4];
  store(lanes, a);
  std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(T));
}

// x rounded to the nearest integer, ties to even, for |x| < 2^22.
inline Vec round(Vec x) {
  const Floats magic = set1(0x1.8p23f).v;
  return {(x.v + magic) - magic};
}
// p · 2^n for an integral n in [-252, 252], in two exact steps but for a subnormal result.
inline Vec scale(Vec p, Vec n) {
  const Ints whole = __builtin_convertvector(n.v, Ints);
  const Ints half = whole >> 1, rest = whole - half;
  const Floats a = reinterpret_cast<Floats>((half + 127) << 23);
  const Floats b = reinterpret_cast<Floats>((rest + 127) << 23);
  return {p.v * a * b};
}

}  // namespace
}  // namespace engine::cpu
