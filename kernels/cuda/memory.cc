#include "kernels/cuda/memory.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace engine::cuda {

Buffer DeviceMemory::allocate(std::size_t bytes) {
  context_.require_not_recording("an allocation");
  context_.make_current();
  void* data = nullptr;
  // cudaMalloc aligns to 256 bytes at least; an empty buffer still has an address.
  const cudaError_t status = cudaMalloc(&data, std::max<std::size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "asking for the free memory");
    fail(ErrorKind::kMemory, to_string(context_.device()), ": need ", bytes, " bytes, ", free,
         " of ", total, " are free");
  }
  context_.check_wait(status);
  const std::size_t used = used_ += bytes;
  std::size_t peak = peak_;
  while (used > peak && !peak_.compare_exchange_weak(peak, used)) {
  }
  return Buffer(data, bytes, context_.device(), [this, bytes](void* memory) {
    cudaSetDevice(context_.index());
    cudaFree(memory);  // waits for work that may still use it
    used_ -= bytes;
  });
}

}  // namespace engine::cuda
