// What every launcher of the CUDA backend needs: the device, its stream, and error reports.
//
// Owned by the backend; used by one thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/core/device.h"
#include "kernels/cuda/choose.h"

namespace engine::cuda {

class CudaContext {
 public:
  // Takes the device into use: throws Error{kDevice} with the reason where it can't be.
  explicit CudaContext(int index);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  Device device() const { return {DeviceKind::kCuda, index_}; }
  int index() const { return index_; }
  cudaStream_t stream() const { return stream_; }
  const CudaArch& arch() const { return arch_; }
  const std::string& name() const { return name_; }
  // Arrival counters for kernels whose last block finishes the work: kCounters zeros, and every
  // kernel leaves them zero.
  std::uint32_t* counters() const { return counters_; }
  static constexpr std::int64_t kCounters = kAttentionCounters;

  // Makes the device current for the calling thread.
  void make_current() const;
  // Notes the op whose work is issued next, for reports of failures.
  void begin_op(const char* name) { last_op_ = name; }
  const char* last_op() const { return last_op_; }

  // Throws Error{kDevice} naming the op that is being issued unless `status` is a success.
  void check_launch(cudaError_t status) const;
  // The same for a wait on issued work, whose failure may come from any op up to the last.
  void check_wait(cudaError_t status) const;

  // Set while a step is being recorded. Throws Error{kInternal} naming `what` then.
  void require_not_recording(const char* what) const;
  void set_recording(bool recording) { recording_ = recording; }

 private:
  int index_;
  CudaArch arch_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  std::uint32_t* counters_ = nullptr;
  const char* last_op_ = "nothing";
  bool recording_ = false;
};

// Throws Error{kDevice} naming `what` unless `status` is a success.
void check_cuda(cudaError_t status, const char* what);

// The reason why no CUDA device can be used, or "" and their count.
std::string cuda_problem(int* count);
// The reason why device `index` can't be used, or "".
std::string cuda_device_problem(int index);

}  // namespace engine::cuda
