// The one way kernels are launched, and the choice of a kernel's element type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "kernels/cuda/context.h"

namespace engine::cuda {

// Shared memory above this must be asked for kernel by kernel.
inline constexpr std::size_t kDefaultSharedLimit = 48 * 1024;

// How a Hopper multiprocessor splits its memory while a kernel runs. It has to run empty before it
// can change the split, which undoes the overlap of kernels: so kernels share one, but for those
// that live from L1.
enum class Carveout { kShared, kL1 };

// Launches `kernel` on the context's stream. On the Hopper path the launch carries the programmatic
// attribute, so the kernel must follow the rule of device/pdl.cuh.
template <typename... Parameters, typename... Arguments>
void launch(CudaContext& context, Carveout carveout, void (*kernel)(Parameters...), dim3 grid,
            dim3 block, std::size_t shared_bytes, Arguments&&... arguments) {
  if (shared_bytes > kDefaultSharedLimit) {
    context.check_launch(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(shared_bytes)));
  }
  if (context.arch().hopper()) {
    context.check_launch(cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout,
        carveout == Carveout::kL1 ? cudaSharedmemCarveoutMaxL1 : cudaSharedmemCarveoutMaxShared));
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = context.stream();
  config.attrs = &attribute;
  config.numAttrs = context.arch().hopper() ? 1 : 0;
  context.check_launch(
      cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...));
}
template <typename... Parameters, typename... Arguments>
void launch(CudaContext& context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, Arguments&&... arguments) {
  launch(context, Carveout::kShared, kernel, grid, block, shared_bytes,
         std::forward<Arguments>(arguments)...);
}

inline unsigned to_unsigned(std::int64_t value) {
  ENGINE_REQUIRE(value >= 0 && value <= 0x7fffffff, "a launch dimension of ", value);
  return static_cast<unsigned>(value);
}

// Blocks for each of `rows` rows of `items` items, 256 threads a block: as many as have an item for
// every thread, and together about eight a multiprocessor, so that few rows still use the card.
inline unsigned blocks_of_row(const CudaContext& context, std::int64_t rows, std::int64_t items) {
  const std::int64_t wanted = (items + 255) / 256;
  const std::int64_t most = std::max<std::int64_t>(context.arch().sms * 8 / rows, 1);
  return to_unsigned(std::clamp<std::int64_t>(wanted, 1, most));
}

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>{}) with the storage type of `dtype`.
template <typename F>
void dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(TypeTag<float>{});
    case DType::kF16:
      return f(TypeTag<__half>{});
    case DType::kBF16:
      return f(TypeTag<__nv_bfloat16>{});
    default:
      fail(ErrorKind::kInternal, "no kernel for elements of type ", dtype);
  }
}

}  // namespace engine::cuda
