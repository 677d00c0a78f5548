#include "kernels/cuda/uploader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace engine::cuda {
namespace {

constexpr std::size_t kStagingBytes = std::size_t{8} << 20;  // of one slot; a longer row gets more
constexpr std::size_t kSlots = 2;                            // of one reader

DType dtype_of(QuantFormat format) {
  switch (format) {
    case QuantFormat::kF32:
      return DType::kF32;
    case QuantFormat::kF16:
      return DType::kF16;
    case QuantFormat::kBF16:
      return DType::kBF16;
  }
  fail(ErrorKind::kInternal, "upload: no CUDA kernel reads weights of this format");
}

template <typename To, typename From>
void convert_elements(std::byte* to, const std::byte* from, std::size_t count) {
  const auto* source = reinterpret_cast<const From*>(from);
  auto* destination = reinterpret_cast<To*>(to);
  for (std::size_t i = 0; i < count; ++i) destination[i] = from_float<To>(to_float(source[i]));
}

template <typename From>
void convert_from(DType to_type, std::byte* to, const std::byte* from, std::size_t count) {
  if (to_type == DType::kF32) return convert_elements<float, From>(to, from, count);
  if (to_type == DType::kF16) return convert_elements<f16_t, From>(to, from, count);
  convert_elements<bf16_t, From>(to, from, count);
}

void convert(DType to_type, std::byte* to, DType from_type, const std::byte* from,
             std::size_t count) {
  if (from_type == DType::kF32) return convert_from<float>(to_type, to, from, count);
  if (from_type == DType::kF16) return convert_from<f16_t>(to_type, to, from, count);
  convert_from<bf16_t>(to_type, to, from, count);
}

// One reader's pinned memory, its stream, and an event per slot that tells when it is free again.
class Staging {
 public:
  explicit Staging(std::size_t slot_bytes) : slot_bytes_(slot_bytes) {
    try {
      check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
      check_cuda(cudaHostAlloc(reinterpret_cast<void**>(&memory_), kSlots * slot_bytes_,
                               cudaHostAllocDefault),
                 "reserving pinned memory for loading");
      for (cudaEvent_t& event : free_) {
        check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~Staging() { release(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // The next slot, once its last copy is done.
  std::byte* acquire() {
    check_cuda(cudaEventSynchronize(free_[slot_]), "copying weights");
    return memory_ + slot_ * slot_bytes_;
  }
  // Copies the acquired slot's first `bytes`.
  void submit(std::byte* destination, std::size_t bytes) {
    check_cuda(cudaMemcpyAsync(destination, memory_ + slot_ * slot_bytes_, bytes,
                               cudaMemcpyHostToDevice, stream_),
               "copying weights");
    check_cuda(cudaEventRecord(free_[slot_], stream_), "copying weights");
    slot_ = (slot_ + 1) % kSlots;
  }
  void drain() { check_cuda(cudaStreamSynchronize(stream_), "copying weights"); }

 private:
  void release() {
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    for (const cudaEvent_t event : free_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    cudaFreeHost(memory_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  std::size_t slot_bytes_;
  std::size_t slot_ = 0;
  std::byte* memory_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, kSlots> free_{};
};

std::size_t row_bytes(DType dtype, std::int64_t columns) {
  return dtype_size(dtype) * static_cast<std::size_t>(columns);
}

int reader_threads(int asked) {
  if (asked > 0) return std::min(asked, 32);
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 4, 16);
}

}  // namespace

CudaUploader::CudaUploader(CudaContext& context, DeviceMemory& memory, int threads)
    : context_(context), memory_(memory), threads_(reader_threads(threads)) {}

Weight CudaUploader::add(std::vector<HostWeight> parts, QuantFormat format) {
  ENGINE_REQUIRE(!parts.empty(), "upload: a weight of no parts");
  const DType stored = dtype_of(format);
  const std::int64_t columns = parts.front().columns;
  std::int64_t rows = 0;
  for (const HostWeight& part : parts) {
    ENGINE_REQUIRE(part.columns == columns && is_float(part.dtype), "upload: ", part.name, " has ",
                   part.columns, " columns of ", part.dtype, ", expected ", columns);
    rows = checked_add(rows, part.rows, part.name.c_str());
  }
  const std::size_t stored_row = row_bytes(stored, columns);
  buffers_.push_back(memory_.allocate(
      checked_mul(static_cast<std::size_t>(rows), stored_row, parts.front().name.c_str())));
  auto* destination = static_cast<std::byte*>(buffers_.back().data());
  const Weight weight{.data = destination,
                      .scales = nullptr,
                      .format = format,
                      .rows = rows,
                      .columns = columns,
                      .device = context_.device()};
  for (HostWeight& part : parts) {
    const auto step = static_cast<std::int64_t>(
        std::max<std::size_t>(1, kStagingBytes / std::max<std::size_t>(stored_row, 1)));
    for (std::int64_t row = 0; row < part.rows; row += step) {
      const std::int64_t count = std::min(step, part.rows - row);
      jobs_.push_back({parts_.size(), row, count, destination});
      destination += stored_row * static_cast<std::size_t>(count);
    }
    parts_.push_back({std::move(part), stored});
  }
  return weight;
}

std::vector<Buffer> CudaUploader::finish(const std::function<void(std::size_t bytes)>& progress) {
  context_.require_not_recording("an upload");
  Progress shared;
  shared.running = static_cast<int>(
      std::min(static_cast<std::size_t>(threads_), std::max<std::size_t>(jobs_.size(), 1)));
  std::vector<std::thread> readers;
  // Joins on every way out, an exception of `progress` among them.
  struct Join {
    Progress& shared;
    std::vector<std::thread>& readers;
    ~Join() {
      shared.stop = true;
      for (std::thread& reader : readers) reader.join();
    }
  };
  {
    Join join{shared, readers};
    const int count = shared.running;
    readers.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) readers.emplace_back([&] { read_all(shared); });
    std::unique_lock lock(shared.mutex);
    while (shared.running > 0) {
      shared.changed.wait_for(lock, std::chrono::milliseconds(100));
      lock.unlock();
      if (progress) progress(shared.bytes);
      lock.lock();
    }
  }
  if (shared.error) std::rethrow_exception(shared.error);
  if (progress) progress(shared.bytes);  // all of it, however soon the readers were done
  jobs_.clear();
  parts_.clear();
  return std::move(buffers_);
}

void CudaUploader::read_all(Progress& progress) {
  std::exception_ptr error;
  try {
    run_jobs(progress);
  } catch (...) {
    error = std::current_exception();
    progress.stop = true;
  }
  const std::lock_guard lock(progress.mutex);
  if (error && !progress.error) progress.error = error;
  --progress.running;
  progress.changed.notify_all();
}

void CudaUploader::run_jobs(Progress& progress) {
  context_.make_current();
  std::size_t slot_bytes = kStagingBytes;
  for (const Part& part : parts_) {
    slot_bytes = std::max(slot_bytes, row_bytes(part.stored, part.source.columns));
  }
  Staging staging(slot_bytes);
  std::vector<std::byte> unconverted;
  while (!progress.stop) {
    const std::size_t index = progress.next_job++;
    if (index >= jobs_.size()) break;
    const Job& job = jobs_[index];
    const Part& part = parts_[job.part];
    const HostWeight& source = part.source;
    const std::size_t bytes =
        row_bytes(part.stored, source.columns) * static_cast<std::size_t>(job.count);
    const std::size_t source_bytes =
        row_bytes(source.dtype, source.columns) * static_cast<std::size_t>(job.count);
    std::byte* slot = staging.acquire();
    if (source.dtype == part.stored) {
      source.read(job.row, job.count, slot);
    } else {
      unconverted.resize(std::max(unconverted.size(), source_bytes));
      source.read(job.row, job.count, unconverted.data());
      convert(part.stored, slot, source.dtype, unconverted.data(),
              static_cast<std::size_t>(job.count * source.columns));
    }
    staging.submit(job.destination, bytes);
    progress.bytes += source_bytes;
  }
  staging.drain();
}

}  // namespace engine::cuda
