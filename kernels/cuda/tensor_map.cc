#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>

#include "kernels/core/check.h"

namespace engine::cuda {
namespace {

constexpr unsigned kDriverVersion = 12000;  // the first with this function
constexpr cuuint32_t kBoxColumns = 64;

PFN_cuTensorMapEncodeTiled_v12000 driver_encode(const CudaContext& context) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  context.check_launch(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                        kDriverVersion, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess || function == nullptr) {
    fail(ErrorKind::kDevice, "the CUDA driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

// The map's first `rank` axes: columns, rows, planes, batches.
CUtensorMap encode_map(const CudaContext& context, const PlanesView& view, cuuint32_t rank,
                       std::int64_t batches, std::int64_t batch_stride, int box_rows) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = driver_encode(context);
  const std::array<cuuint64_t, 4> sizes{
      static_cast<cuuint64_t>(view.columns), static_cast<cuuint64_t>(view.rows),
      static_cast<cuuint64_t>(view.planes), static_cast<cuuint64_t>(batches)};
  // The stride of an axis of extent 1 is never used but has to be a lawful one.
  const auto stride = [&](std::int64_t extent, std::int64_t elements) {
    return extent > 1 ? static_cast<cuuint64_t>(elements) * 2
                      : static_cast<cuuint64_t>((view.columns * 2 + 15) / 16 * 16);
  };
  const std::array<cuuint64_t, 3> strides{stride(view.rows, view.row_stride),
                                          stride(view.planes, view.plane_stride),
                                          stride(batches, batch_stride)};
  const std::array<cuuint32_t, 4> box{kBoxColumns, static_cast<cuuint32_t>(box_rows), 1, 1};
  const std::array<cuuint32_t, 4> steps{1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult result =
      encode(&map,
             view.dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
             rank, const_cast<void*>(view.data), sizes.data(), strides.data(), box.data(),
             steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    fail(ErrorKind::kDevice, "the CUDA driver refused a tensor map (error ",
         static_cast<int>(result), ") in ", context.last_op());
  }
  return map;
}

}  // namespace

CUtensorMap make_tensor_map(const CudaContext& context, const PlanesView& view, int box_rows) {
  return encode_map(context, view, 3, 1, 0, box_rows);
}

CUtensorMap make_tensor_map_4d(const CudaContext& context, const PlanesView& view,
                               std::int64_t batches, std::int64_t batch_stride, int box_rows) {
  return encode_map(context, view, 4, batches, batch_stride, box_rows);
}

}  // namespace engine::cuda
