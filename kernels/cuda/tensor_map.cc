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

// The map of boxes of 64 columns, `box_rows` rows and one of each further axis; sizes and strides
// (elements; of axes from the second on) innermost first.
template <std::size_t kRank>
CUtensorMap encode_map(const CudaContext& context, const void* data, DType dtype,
                       const std::array<std::int64_t, kRank>& extents,
                       const std::array<std::int64_t, kRank - 1>& steps, int box_rows) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = driver_encode(context);
  std::array<cuuint64_t, kRank> sizes;
  std::array<cuuint64_t, kRank - 1> strides;
  std::array<cuuint32_t, kRank> box, element_steps;
  for (std::size_t i = 0; i < kRank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(extents[i]);
    box[i] = i == 0 ? kBoxColumns : i == 1 ? static_cast<cuuint32_t>(box_rows) : 1;
    element_steps[i] = 1;
    // The stride of an axis of extent 1 is never used but has to be a lawful one.
    if (i > 0) {
      strides[i - 1] = extents[i] > 1 ? static_cast<cuuint64_t>(steps[i - 1]) * 2
                                      : static_cast<cuuint64_t>((extents[0] * 2 + 15) / 16 * 16);
    }
  }
  CUtensorMap map{};
  const CUresult result = encode(
      &map,
      dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      static_cast<cuuint32_t>(kRank), const_cast<void*>(data), sizes.data(), strides.data(),
      box.data(), element_steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    fail(ErrorKind::kDevice, "the CUDA driver refused a tensor map (error ",
         static_cast<int>(result), ") in ", context.last_op());
  }
  return map;
}

}  // namespace

CUtensorMap make_tensor_map(const CudaContext& context, const PlanesView& view, int box_rows) {
  return encode_map<3>(context, view.data, view.dtype, {view.columns, view.rows, view.planes},
                       {view.row_stride, view.plane_stride}, box_rows);
}

CUtensorMap make_tensor_map(const CudaContext& context, const HeadsView& view, int box_rows) {
  return encode_map<4>(context, view.data, view.dtype,
                       {view.columns, view.rows, view.heads, view.batch},
                       {view.row_stride, view.head_stride, view.batch_stride}, box_rows);
}

}  // namespace engine::cuda
