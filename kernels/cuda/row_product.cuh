// What the kernels of row_product.h share: where rows lie, and what becomes of a sum.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device/int8.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_product.h"

namespace engine::cuda {

// The expert of row `row`. One outside [0, E) is the caller's error; nothing is read out of bounds.
__device__ inline std::int32_t expert_of(const RowProduct& p, std::int32_t row) {
  const std::int64_t at = row / p.slots * p.experts_stride + row % p.slots;
  return min(max(p.experts[at], 0), p.count - 1);
}

template <typename T>
__device__ const T* x_row(const RowProduct& p, std::int32_t row) {
  return static_cast<const T*>(p.x) + row / p.slots * p.x_stride + row % p.slots * p.x_slot_stride;
}

// The scale of row `n` of the joined weight.
template <typename W>
__device__ float weight_scale(const RowProduct& p, std::int64_t n) {
  if constexpr (std::is_same_v<W, std::int8_t>) {
    return scale_value(p.scales[n]);
  } else {
    return 1.0f;
  }
}

// Where a sum goes, found out, with its scale and residual, before the sum is there.
template <typename T>
struct SumPlace {
  void* out = nullptr;  // null: nowhere
  float scale = 0.0f, residual = 0.0f;
  bool f32 = false;

  SumPlace() = default;
  __device__ SumPlace(const RowProduct& p, std::int32_t row, std::int64_t n, float scale_of_row)
      : scale(scale_of_row), f32(p.f32_out) {
    const std::int64_t t = row / p.slots, s = row % p.slots;
    const std::int64_t at = t * p.out_stride + s * p.out_slot_stride + n;
    out = f32 ? static_cast<void*>(static_cast<float*>(p.out) + at)
              : static_cast<void*>(static_cast<T*>(p.out) + at);
    if (p.residual == nullptr) return;
    const std::int64_t from = t * p.residual_stride + n;
    residual = f32 ? static_cast<const float*>(p.residual)[from]
                   : to_f32(static_cast<const T*>(p.residual)[from]);
  }
  __device__ bool exists() const { return out != nullptr; }
  // sum × scale + residual, rounded once.
  __device__ void store(float sum) const {
    const float value = fmaf(sum, scale, residual);
    if (f32) {
      *static_cast<float*>(out) = value;
    } else {
      *static_cast<T*>(out) = from_f32<T>(value);
    }
  }
};

template <typename Out>
__device__ void store_as(const RowProduct& p, std::int32_t row, std::int64_t n, float sum,
                         float scale) {
  const std::int64_t t = row / p.slots, s = row % p.slots;
  const float value =
      p.residual == nullptr
          ? sum * scale
          : fmaf(sum, scale,
                 to_f32(static_cast<const Out*>(p.residual)[t * p.residual_stride + n]));
  static_cast<Out*>(p.out)[t * p.out_stride + s * p.out_slot_stride + n] = from_f32<Out>(value);
}

// out[row, n] = sum × scale (+ residual), rounded once; T is x's type.
template <typename T>
__device__ void store_sum(const RowProduct& p, std::int32_t row, std::int64_t n, float sum,
                          float scale) {
  if (p.f32_out) {
    store_as<float>(p, row, n, sum, scale);
  } else {
    store_as<T>(p, row, n, sum, scale);
  }
}

// The rows of tile `tile` into `rows` (kRowTile of shared memory), −1 past the last; returns the
// tile's expert. The caller synchronises.
template <int kTile>
__device__ std::int32_t tile_rows(const RowProduct& p, std::int32_t tile,
                                  std::int32_t (&rows)[kTile]) {
  RowGroup group{0, tile * kTile, min(kTile, p.rows - tile * kTile)};
  if (p.order != nullptr) group = p.groups[tile];
  for (int i = static_cast<int>(threadIdx.x); i < kTile; i += static_cast<int>(blockDim.x)) {
    const std::int32_t place = group.begin + i;
    rows[i] = i >= group.count ? -1 : p.order == nullptr ? place : p.order[place];
  }
  return group.expert;
}

// Calls f(TypeTag<W>{}) with the storage type of `format`.
template <typename F>
void dispatch_weight(QuantFormat format, F&& f) {
  switch (format) {
    case QuantFormat::kF32:
      return f(TypeTag<float>{});
    case QuantFormat::kF16:
      return f(TypeTag<__half>{});
    case QuantFormat::kBF16:
      return f(TypeTag<__nv_bfloat16>{});
    case QuantFormat::kInt8:
      return f(TypeTag<std::int8_t>{});
  }
}

}  // namespace engine::cuda
