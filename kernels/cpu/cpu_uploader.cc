// The queue is a list of pieces of rows, a few MiB each. Readers take the next piece off it; where
// the type matches they read straight into the weight, else into a staging area of their own from
// which the rows are converted or quantised. Quantised rows lie like others, their scales behind
// the last of them. The thread that called finish() only reports progress.
#include "kernels/cpu/cpu_uploader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/cpu/context.h"

namespace engine::cpu {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
constexpr auto kProgressPeriod = std::chrono::milliseconds(100);

// Rows [row, row + rows) of one matrix and where they go.
struct Piece {
  std::shared_ptr<const HostWeight> source;
  std::int64_t row = 0;
  std::int64_t rows = 0;
  std::byte* destination = nullptr;
  bf16_t* scales = nullptr;  // of int8: one per row
  QuantFormat format = QuantFormat::kF32;

  std::size_t elements() const { return static_cast<std::size_t>(rows * source->columns); }
  std::size_t bytes() const { return elements() * dtype_size(source->dtype); }
};

// What the readers and the thread in finish() share.
struct Progress {
  std::atomic<std::size_t> next{0};   // of the queue
  std::atomic<std::size_t> bytes{0};  // read so far
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t running = 0;   // readers, under mutex
  std::exception_ptr error;  // the first, under mutex
};

class CpuUploader final : public Uploader {
 public:
  CpuUploader(Backend& backend, const Kernels& kernels, int threads)
      : backend_(backend), kernels_(kernels), threads_(threads) {}

  Weight add(std::vector<HostWeight> parts, QuantFormat format) override;
  std::vector<Buffer> finish(const std::function<void(std::size_t)>& progress) override;

 private:
  void read_pieces(Progress& state) const;
  void read_piece(const Piece& piece, std::vector<std::byte>& staging) const;
  void convert(const Piece& piece, const std::byte* source) const;
  void quantise(const Piece& piece, const std::byte* source) const;
  void wait(Progress& state, const std::function<void(std::size_t)>& progress) const;

  Backend& backend_;
  const Kernels& kernels_;
  int threads_;
  std::vector<Piece> queue_;
  std::vector<Buffer> buffers_;
};

Weight CpuUploader::add(std::vector<HostWeight> parts, QuantFormat format) {
  ENGINE_REQUIRE(!parts.empty(), "upload: no parts");
  const std::int64_t columns = parts[0].columns;
  std::int64_t rows = 0;
  for (const HostWeight& part : parts) {
    ENGINE_REQUIRE(part.columns == columns && part.rows >= 0 && is_float(part.dtype),
                   "upload: ", part.name, " is (", part.rows, ", ", part.columns, ") ", part.dtype,
                   ", expected floating-point rows of ", columns);
    rows = checked_add(rows, part.rows, part.name.c_str());
  }
  const char* name = parts[0].name.c_str();
  const FormatInfo& info = format_info(format);
  const std::size_t row_bytes =
      checked_mul(static_cast<std::size_t>(columns), info.row_bytes(1), name);
  const std::size_t matrix_bytes = checked_mul(static_cast<std::size_t>(rows), row_bytes, name);
  const std::size_t scales_at = matrix_bytes + matrix_bytes % 2;
  buffers_.push_back(backend_.allocate(
      checked_add(scales_at, static_cast<std::size_t>(rows) * info.scale_bytes, name)));
  auto* destination = static_cast<std::byte*>(buffers_.back().data());
  auto* scales =
      info.scale_bytes > 0 ? reinterpret_cast<bf16_t*>(destination + scales_at) : nullptr;
  const Weight weight = {.data = destination,
                         .scales = scales,
                         .format = format,
                         .rows = rows,
                         .columns = columns,
                         .device = backend_.device()};
  for (HostWeight& part : parts) {
    const auto source = std::make_shared<const HostWeight>(std::move(part));
    const auto wide =
        std::max(static_cast<std::size_t>(columns) * dtype_size(source->dtype), std::size_t{1});
    const auto step = static_cast<std::int64_t>(std::max(kPieceBytes / wide, std::size_t{1}));
    for (std::int64_t row = 0; row < source->rows; row += step) {
      const std::int64_t count = std::min(step, source->rows - row);
      queue_.push_back({source, row, count, destination, scales, format});
      destination += static_cast<std::size_t>(count) * row_bytes;
      if (scales != nullptr) scales += count;
    }
  }
  return weight;
}

void CpuUploader::read_piece(const Piece& piece, std::vector<std::byte>& staging) const {
  const HostWeight& source = *piece.source;
  if (plain_format(source.dtype) == piece.format) {
    source.read(piece.row, piece.rows, piece.destination);
    return;
  }
  staging.resize(std::max(staging.size(), piece.bytes()));
  source.read(piece.row, piece.rows, staging.data());
  if (piece.format == QuantFormat::kInt8) {
    quantise(piece, staging.data());
  } else {
    convert(piece, staging.data());
  }
}

void CpuUploader::convert(const Piece& piece, const std::byte* source) const {
  constexpr std::size_t kRun = 1024;
  float run[kRun];
  const DType from = piece.source->dtype, to = storage_dtype(piece.format);
  const auto widen = kernels_.to_float[type_index(from)];
  const auto narrow = kernels_.from_float[type_index(to)];
  for (std::size_t i = 0; i < piece.elements(); i += kRun) {
    const auto count = static_cast<std::int64_t>(std::min(kRun, piece.elements() - i));
    widen(source + i * dtype_size(from), run, count);
    narrow(run, piece.destination + i * dtype_size(to), count);
  }
}

void CpuUploader::quantise(const Piece& piece, const std::byte* source) const {
  const std::int64_t columns = piece.source->columns;
  const auto widen = kernels_.to_float[type_index(piece.source->dtype)];
  const std::size_t row_bytes = static_cast<std::size_t>(columns) * dtype_size(piece.source->dtype);
  std::vector<float> weights(static_cast<std::size_t>(columns));
  for (std::int64_t row = 0; row < piece.rows; ++row) {
    widen(source + static_cast<std::size_t>(row) * row_bytes, weights.data(), columns);
    auto* q = reinterpret_cast<std::int8_t*>(piece.destination) + row * columns;
    ENGINE_CHECK(kernels_.quantise_int8(weights.data(), q, piece.scales + row, columns),
                 ErrorKind::kModel, piece.source->name, ": row ", piece.row + row,
                 " holds a NaN or an infinity, which int8 can't represent");
  }
}

// A reader's whole life. Nothing escapes it: the first error stops all readers and is kept.
void CpuUploader::read_pieces(Progress& state) const {
  std::exception_ptr error;
  try {
    std::vector<std::byte> staging;
    while (!state.stop.load()) {
      const std::size_t index = state.next.fetch_add(1);
      if (index >= queue_.size()) break;
      read_piece(queue_[index], staging);
      state.bytes.fetch_add(queue_[index].bytes());
    }
  } catch (const std::bad_alloc&) {
    error = std::make_exception_ptr(
        Error(ErrorKind::kMemory, "no host memory to convert weights while reading them"));
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(state.mutex);
  if (error && !state.error) {
    state.error = error;
    state.stop.store(true);
  }
  --state.running;
  state.changed.notify_all();
}

// Calls `progress` until no reader runs.
void CpuUploader::wait(Progress& state, const std::function<void(std::size_t)>& progress) const {
  std::unique_lock lock(state.mutex);
  while (!state.changed.wait_for(lock, kProgressPeriod, [&] { return state.running == 0; })) {
    lock.unlock();
    if (progress) progress(state.bytes.load());
    lock.lock();
  }
  if (state.error) std::rethrow_exception(state.error);
  lock.unlock();
  if (progress) progress(state.bytes.load());
}

std::vector<Buffer> CpuUploader::finish(const std::function<void(std::size_t)>& progress) {
  Progress state;
  std::vector<std::thread> readers;
  const auto join = [&] {
    for (std::thread& reader : readers) reader.join();
  };
  try {
    const std::size_t wanted = std::min(static_cast<std::size_t>(threads_), queue_.size());
    readers.reserve(wanted);
    for (std::size_t i = 0; i < wanted; ++i) {
      {
        const std::lock_guard lock(state.mutex);
        ++state.running;
      }
      try {
        readers.emplace_back([this, &state] { read_pieces(state); });
      } catch (const std::system_error&) {  // no more threads: those that run will do
        const std::lock_guard lock(state.mutex);
        --state.running;
        ENGINE_CHECK(!readers.empty(), ErrorKind::kMemory, "cannot start a thread to read weights");
        break;
      }
    }
    wait(state, progress);
  } catch (...) {
    state.stop.store(true);
    join();
    throw;
  }
  join();
  queue_.clear();
  return std::exchange(buffers_, {});
}

}  // namespace

std::unique_ptr<Uploader> make_uploader(Backend& backend, const Kernels& kernels, int threads) {
  return std::make_unique<CpuUploader>(backend, kernels, std::max(threads, 1));
}

}  // namespace engine::cpu
