// A kernel that does nothing, built for the same architectures as all the others: whether it loads
// tells whether they do.
#include "kernels/cuda/probe.h"

namespace engine::cuda {
namespace {

__global__ void probe_kernel() {}

}  // namespace

cudaError_t probe_kernel_image() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, probe_kernel);
}

}  // namespace engine::cuda
