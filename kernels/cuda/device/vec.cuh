// Storage types on the device: conversion to and from fp32, and 16-byte vectors of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace engine::cuda {

// Elements of T in one 16-byte access.
template <typename T>
inline constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

__device__ inline float to_f32(float x) { return x; }
__device__ inline float to_f32(__half x) { return __half2float(x); }
__device__ inline float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

// A scale of int8 weights, which is stored as the bits of a bf16.
__device__ inline float scale_value(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

// Rounds to nearest, ties to even.
template <typename T>
__device__ T from_f32(float x);
template <>
__device__ inline float from_f32<float>(float x) {
  return x;
}
template <>
__device__ inline __half from_f32<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_f32<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// fp32 rounded to T and back.
template <typename T>
__device__ float round_to(float x) {
  return to_f32(from_f32<T>(x));
}

// The elements of a 16-byte vector as fp32, exactly.
template <typename T>
struct Unpack;
template <>
struct Unpack<float> {
  __device__ static void run(uint4 raw, float (&out)[4]) {
    out[0] = __uint_as_float(raw.x);
    out[1] = __uint_as_float(raw.y);
    out[2] = __uint_as_float(raw.z);
    out[3] = __uint_as_float(raw.w);
  }
};
template <>
struct Unpack<__nv_bfloat16> {
  __device__ static void run(uint4 raw, float (&out)[8]) {
    const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = __uint_as_float(words[i] << 16);
      out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};
template <>
struct Unpack<__half> {
  __device__ static void run(uint4 raw, float (&out)[8]) {
    const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 pair = *reinterpret_cast<const __half2*>(&words[i]);
      out[2 * i] = __low2float(pair);
      out[2 * i + 1] = __high2float(pair);
    }
  }
};
template <typename T>
__device__ void unpack(uint4 raw, float (&out)[kPerVector<T>]) {
  Unpack<T>::run(raw, out);
}

// fp32 values rounded into one 16-byte vector.
template <typename T>
__device__ uint4 pack(const float (&in)[kPerVector<T>]) {
  uint4 raw;
  T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) elements[i] = from_f32<T>(in[i]);
  return raw;
}

// Two fp32 values as the low and high half of one 32-bit register of T (a 16-bit type).
template <typename T>
__device__ std::uint32_t pack_pair(float low, float high);
template <>
__device__ inline std::uint32_t pack_pair<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
template <>
__device__ inline std::uint32_t pack_pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// Products of two pairs, each rounded once.
template <typename T>
__device__ std::uint32_t multiply_pair(std::uint32_t a, std::uint32_t b);
template <>
__device__ inline std::uint32_t multiply_pair<__half>(std::uint32_t a, std::uint32_t b) {
  const __half2 product =
      __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}
template <>
__device__ inline std::uint32_t multiply_pair<__nv_bfloat16>(std::uint32_t a, std::uint32_t b) {
  const __nv_bfloat162 product = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a),
                                         *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}

__device__ inline uint4 load_vector(const void* address) {
  return *static_cast<const uint4*>(address);
}
// From global memory that nobody writes meanwhile.
__device__ inline uint4 load_constant(const void* address) {
  return __ldg(static_cast<const uint4*>(address));
}
__device__ inline void store_vector(void* address, uint4 raw) {
  *static_cast<uint4*>(address) = raw;
}

// `count` < kPerVector elements at any alignment into one vector, the rest zero.
template <typename T>
__device__ uint4 load_elements(const T* address, int count) {
  uint4 raw = make_uint4(0, 0, 0, 0);
  T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) {
    if (i < count) elements[i] = address[i];
  }
  return raw;
}

}  // namespace engine::cuda
