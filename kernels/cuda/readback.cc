#include "kernels/cuda/readback.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/check.h"

namespace engine::cuda {

CudaReadback::CudaReadback(CudaContext& context, std::size_t bytes, int depth)
    : context_(context), slot_bytes_(std::max<std::size_t>(bytes, 1)) {
  ENGINE_REQUIRE(depth > 0, "readback: a depth of ", depth);
  context_.make_current();
  slots_.resize(static_cast<std::size_t>(depth));
  try {
    check_cuda(cudaHostAlloc(reinterpret_cast<void**>(&memory_), slot_bytes_ * slots_.size(),
                             cudaHostAllocDefault),
               "reserving pinned memory for results");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
    check_cuda(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "creating an event");
    for (Slot& slot : slots_) {
      check_cuda(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "creating an event");
    }
  } catch (...) {
    release();
    throw;
  }
}

CudaReadback::~CudaReadback() {
  cudaSetDevice(context_.index());
  cudaStreamSynchronize(stream_);  // copies into the slots may still be under way
  release();
}

void CudaReadback::release() {
  for (Slot& slot : slots_) {
    if (slot.done != nullptr) cudaEventDestroy(slot.done);
  }
  if (ready_ != nullptr) cudaEventDestroy(ready_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  cudaFreeHost(memory_);
}

void CudaReadback::push(const Tensor& source) {
  context_.require_not_recording("a readback");
  ENGINE_REQUIRE(source.is_contiguous() && source.bytes() <= slot_bytes_,
                 "readback: ", source.bytes(), " bytes, expected dense and at most ", slot_bytes_);
  ENGINE_REQUIRE(pushed_ - popped_ < slots_.size(), "readback: ", slots_.size(),
                 " results are queued already");
  context_.make_current();
  const std::size_t index = pushed_ % slots_.size();
  Slot& slot = slots_[index];
  slot.bytes = source.bytes();
  context_.check_wait(cudaEventRecord(ready_, context_.stream()));
  context_.check_wait(cudaStreamWaitEvent(stream_, ready_));
  context_.check_wait(
      cudaMemcpyAsync(memory(index), source.data, slot.bytes, cudaMemcpyDeviceToHost, stream_));
  context_.check_wait(cudaEventRecord(slot.done, stream_));
  ++pushed_;
}

void CudaReadback::pop(void* destination) {
  ENGINE_REQUIRE(popped_ < pushed_, "readback: no result is queued");
  context_.make_current();
  const std::size_t index = popped_ % slots_.size();
  context_.check_wait(cudaEventSynchronize(slots_[index].done));
  std::memcpy(destination, memory(index), slots_[index].bytes);
  ++popped_;
}

}  // namespace engine::cuda
