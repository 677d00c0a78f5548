// Tensor maps: how the copy engine sees a tensor (Hopper). Made on the host, passed to a kernel by
// value as a __grid_constant__ parameter.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/cuda/context.h"

namespace engine::cuda {

// A tensor (planes, rows, columns) of 16-bit elements with dense rows; strides count elements.
struct PlanesView {
  const void* data = nullptr;  // on a multiple of 16 bytes, as are the strides of axes above 1
  DType dtype = DType::kBF16;
  std::int64_t planes = 1, rows = 1, columns = 1;
  std::int64_t plane_stride = 0, row_stride = 0;
};

// The map of boxes of `box_rows` rows and 64 columns of one plane, coordinates (column, row,
// plane), swizzled over 128 bytes; zeros outside the tensor. The driver is asked by name, so that
// nothing links its library. Throws Error{kDevice} where the driver refuses.
CUtensorMap make_tensor_map(const CudaContext& context, const PlanesView& view, int box_rows);

// A tensor (batch, rows, heads, columns) of 16-bit elements with dense rows, and its map: boxes of
// `box_rows` rows and 64 columns of one head, coordinates (column, row, head, batch); else as
// above.
struct HeadsView {
  const void* data = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t batch = 1, rows = 1, heads = 1, columns = 1;
  std::int64_t batch_stride = 0, row_stride = 0, head_stride = 0;
};
CUtensorMap make_tensor_map(const CudaContext& context, const HeadsView& view, int box_rows);

}  // namespace engine::cuda
