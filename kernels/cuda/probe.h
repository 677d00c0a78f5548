// Whether this build holds machine code that the current device runs.
#pragma once

#include <cuda_runtime_api.h>

namespace engine::cuda {

// cudaSuccess, or why not: cudaErrorNoKernelImageForDevice where the architecture is missing.
cudaError_t probe_kernel_image();

}  // namespace engine::cuda
