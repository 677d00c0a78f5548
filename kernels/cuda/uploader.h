// Weights from a checkpoint to device memory: reader threads, each with its own pinned staging and
// copy stream, so that reading, converting and copying overlap.
//
// Owned by the caller; used by one thread. The readers live only inside finish().
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/memory.h"

namespace engine::cuda {

class CudaUploader final : public Uploader {
 public:
  // `threads` readers; 0: one per hardware thread, 4 to 16.
  CudaUploader(CudaContext& context, DeviceMemory& memory, int threads);

  Weight add(std::vector<HostWeight> parts, QuantFormat format) override;
  std::vector<Buffer> finish(const std::function<void(std::size_t bytes)>& progress) override;

 private:
  // Some rows of one part, on their way to `destination`.
  struct Job {
    std::size_t part;
    std::int64_t row, count;
    std::byte* destination;
    std::byte* scales;  // of formats that have scales
  };
  struct Part {
    HostWeight source;
    QuantFormat stored;
  };
  // What the readers and finish() share.
  struct Progress {
    std::atomic<std::size_t> next_job = 0, bytes = 0;
    std::atomic<bool> stop = false;
    std::mutex mutex;
    std::condition_variable changed;
    std::exception_ptr error;
    int running = 0;
  };

  void read_all(Progress& progress);
  void read_job(const Job& job, std::vector<std::byte>& staging, std::byte* slot) const;
  void run_jobs(Progress& progress);

  CudaContext& context_;
  DeviceMemory& memory_;
  int threads_;
  std::vector<Part> parts_;
  std::vector<Job> jobs_;
  std::vector<Buffer> buffers_;
};

}  // namespace engine::cuda
