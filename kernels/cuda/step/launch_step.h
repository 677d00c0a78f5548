// The launcher of the step kernel.
#pragma once

#include "kernels/core/dtype.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/step/control.h"

namespace engine::cuda {

// Issues one launch of `blocks` blocks on the context's stream; `dtype` is f16 or bf16.
void launch_step(CudaContext& context, const StepLaunch& step, DType dtype, int blocks);

}  // namespace engine::cuda
