#include "kernels/cuda/uploader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "kernels/core/workspace.h"
#include "quant/int8.h"

namespace engine::cuda {
namespace {

constexpr std::size_t kStagingBytes = std::size_t{8} << 20;  // of one slot; a longer row gets more
constexpr std::size_t kSlots = 2;                            // of one reader

template <typename To, typename From>
void convert_elements(std::byte* to, const std::byte* from, std::size_t count) {
  const auto* source = reinterpret_cast<const From*>(from);
  auto* destination = reinterpret_cast<To*>(to);
  for (std::size_t i = 0; i < count; ++i) destination[i] = from_float<To>(to_float(source[i]));
}

template <typename From>
void convert_from(QuantFormat to_type, std::byte* to, const std::byte* from, std::size_t count) {
  if (to_type == QuantFormat::kF32) return convert_elements<float, From>(to, from, count);
  if (to_type == QuantFormat::kF16) return convert_elements<f16_t, From>(to, from, count);
  convert_elements<bf16_t, From>(to, from, count);
}

// Elements of one type as those of another, a plain one.
void convert(QuantFormat to_type, std::byte* to, DType from_type, const std::byte* from,
             std::size_t count) {
  if (from_type == DType::kF32) return convert_from<float>(to_type, to, from, count);
  if (from_type == DType::kF16) return convert_from<f16_t>(to_type, to, from, count);
  convert_from<bf16_t>(to_type, to, from, count);
}

// Rows [first, first + rows) of `source`, read to `from`, as int8: the bytes to q, the scales
// behind the last of them.
void quantise(const HostWeight& source, std::int64_t first, std::int64_t rows,
              const std::byte* from, std::byte* q) {
  const auto columns = static_cast<std::size_t>(source.columns);
  const std::size_t from_row = columns * dtype_size(source.dtype);
  std::byte* scales = q + static_cast<std::size_t>(rows) * columns;
  std::vector<float> row(columns);
  for (std::int64_t i = 0; i < rows; ++i) {
    convert(QuantFormat::kF32, reinterpret_cast<std::byte*>(row.data()), source.dtype, from,
            columns);
    ENGINE_CHECK(int8_can_quantise(row), ErrorKind::kModel, source.name, ": row ", first + i,
                 " holds a NaN or an infinity, which int8 can't represent");
    const std::uint16_t scale =
        int8_quantise_row(row, {reinterpret_cast<std::int8_t*>(q), columns});
    std::memcpy(scales, &scale, sizeof(scale));
    from += from_row;
    q += columns;
    scales += sizeof(scale);
  }
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
  // Copies `bytes` from `offset` of the acquired slot.
  void copy(std::byte* destination, std::size_t offset, std::size_t bytes) {
    check_cuda(cudaMemcpyAsync(destination, memory_ + slot_ * slot_bytes_ + offset, bytes,
                               cudaMemcpyHostToDevice, stream_),
               "copying weights");
  }
  // The acquired slot has been copied from for the last time.
  void submit() {
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

std::size_t source_row_bytes(const HostWeight& source) {
  return dtype_size(source.dtype) * static_cast<std::size_t>(source.columns);
}

// Of a stored row, its scale included.
std::size_t stored_row_bytes(QuantFormat format, std::int64_t columns) {
  const FormatInfo& info = format_info(format);
  return info.row_bytes(static_cast<std::size_t>(columns)) + info.scale_bytes;
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
  const std::int64_t columns = parts.front().columns;
  std::int64_t rows = 0;
  for (const HostWeight& part : parts) {
    ENGINE_REQUIRE(part.columns == columns && is_float(part.dtype), "upload: ", part.name, " has ",
                   part.columns, " columns of ", part.dtype, ", expected ", columns);
    rows = checked_add(rows, part.rows, part.name.c_str());
  }
  const FormatInfo& info = format_info(format);
  const char* name = parts.front().name.c_str();
  const std::size_t width = checked_mul(static_cast<std::size_t>(columns), info.row_bytes(1), name);
  const std::size_t matrix = checked_mul(static_cast<std::size_t>(rows), width, name);
  // The scales lie behind the last row.
  const std::size_t scales_at = checked_add(matrix, Workspace::kAlignment - 1, name) /
                                Workspace::kAlignment * Workspace::kAlignment;
  buffers_.push_back(memory_.allocate(
      info.scale_bytes == 0
          ? matrix
          : checked_add(scales_at, static_cast<std::size_t>(rows) * info.scale_bytes, name)));
  auto* destination = static_cast<std::byte*>(buffers_.back().data());
  std::byte* scales = info.scale_bytes == 0 ? nullptr : destination + scales_at;
  const Weight weight{.data = destination,
                      .scales = scales,
                      .format = format,
                      .rows = rows,
                      .columns = columns,
                      .device = context_.device()};
  for (HostWeight& part : parts) {
    const std::size_t row_bytes =
        std::max({stored_row_bytes(format, columns), source_row_bytes(part), std::size_t{1}});
    const auto step =
        static_cast<std::int64_t>(std::max(std::size_t{1}, kStagingBytes / row_bytes));
    for (std::int64_t row = 0; row < part.rows; row += step) {
      const std::int64_t count = std::min(step, part.rows - row);
      jobs_.push_back({parts_.size(), row, count, destination, scales});
      destination += width * static_cast<std::size_t>(count);
      if (scales != nullptr) scales += info.scale_bytes * static_cast<std::size_t>(count);
    }
    parts_.push_back({std::move(part), format});
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

// The rows of the job in their stored form to `slot`, scales behind the last row.
void CudaUploader::read_job(const Job& job, std::vector<std::byte>& staging,
                            std::byte* slot) const {
  const Part& part = parts_[job.part];
  const HostWeight& source = part.source;
  if (plain_format(source.dtype) == part.stored) {
    return source.read(job.row, job.count, slot);
  }
  const std::size_t bytes = source_row_bytes(source) * static_cast<std::size_t>(job.count);
  staging.resize(std::max(staging.size(), bytes));
  source.read(job.row, job.count, staging.data());
  if (part.stored == QuantFormat::kInt8) {
    quantise(source, job.row, job.count, staging.data(), slot);
  } else {
    convert(part.stored, slot, source.dtype, staging.data(),
            static_cast<std::size_t>(job.count * source.columns));
  }
}

void CudaUploader::run_jobs(Progress& progress) {
  context_.make_current();
  std::size_t slot_bytes = kStagingBytes;
  for (const Part& part : parts_) {
    slot_bytes = std::max(slot_bytes, stored_row_bytes(part.stored, part.source.columns));
  }
  Staging staging(slot_bytes);
  std::vector<std::byte> unconverted;
  while (!progress.stop) {
    const std::size_t index = progress.next_job++;
    if (index >= jobs_.size()) break;
    const Job& job = jobs_[index];
    const Part& part = parts_[job.part];
    const FormatInfo& info = format_info(part.stored);
    const auto count = static_cast<std::size_t>(job.count);
    read_job(job, unconverted, staging.acquire());
    const std::size_t bytes = count * info.row_bytes(static_cast<std::size_t>(part.source.columns));
    staging.copy(job.destination, 0, bytes);
    if (job.scales != nullptr) staging.copy(job.scales, bytes, count * info.scale_bytes);
    staging.submit();
    progress.bytes += count * source_row_bytes(part.source);
  }
  staging.drain();
}

}  // namespace engine::cuda
