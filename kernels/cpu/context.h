// What every CPU op runs on: the kernels chosen, the threads, each thread's scratch, and the flag
// that asks it to stop. Owned by the backend; one op runs at a time.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"

namespace engine::cpu {

struct Context {
  const Kernels* kernels = nullptr;
  int threads = 1;
  const std::atomic<bool>* interrupt = nullptr;  // may be null
  std::byte* scratch = nullptr;                  // threads × kScratchBytes, aligned

  bool stopping() const {
    return interrupt != nullptr && interrupt->load(std::memory_order_relaxed);
  }
  // Throws Interrupted where the caller was asked to stop.
  void poll() const {
    if (stopping()) throw Interrupted{};
  }
  // Fixed scratch of one thread, large enough for the blocks of a product (product.cc),
  // or for what an op says.
  static constexpr std::size_t kScratchBytes = 640 * 1024;
  float* thread_scratch(int worker) const {
    return reinterpret_cast<float*>(scratch + static_cast<std::size_t>(worker) * kScratchBytes);
  }
};

// Calls body(item, worker) for every item in [0, items), spread over the threads; worker < threads
// names the calling thread. `cost` is the elements that an item touches or multiplies: work too
// small to be worth waking threads for stays on the calling one. Which thread runs an item must not
// show in the result. `body` must not throw. Once asked to stop, the items left are skipped and
// Interrupted is thrown here, outside the parallel region. The team always has the same size,
// because OpenMP ends the threads it finds superfluous and would start them again for the next op.
// A thread takes `run` adjacent items at a time.
template <typename Body>
void parallel_for(const Context& context, std::int64_t items, std::int64_t cost, const Body& body,
                  std::int64_t run = 1) {
  constexpr std::int64_t kWorthThreads = 1 << 15;  // some microseconds
  context.poll();
  if (context.threads == 1 || items <= 1 || items * cost < kWorthThreads) {
    for (std::int64_t item = 0; item < items && !context.stopping(); ++item) body(item, 0);
  } else {
#pragma omp parallel num_threads(context.threads)
    {
      const int worker = omp_get_thread_num();
#pragma omp for schedule(dynamic, run)
      for (std::int64_t item = 0; item < items; ++item) {
        if (!context.stopping()) body(item, worker);
      }
    }
  }
  context.poll();
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The dtype whose elements a plain weight format stores.
inline DType storage_dtype(QuantFormat format) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (plain_format(dtype) == format) return dtype;
  }
  fail(ErrorKind::kInternal, "the CPU kernels do not read ", format_info(format).name, " weights");
}

// Address of row `row` of a rank-2 tensor.
inline std::byte* row_of(const Tensor& tensor, std::int64_t row) {
  return tensor.as<std::byte>() +
         row * tensor.stride(0) * static_cast<std::int64_t>(dtype_size(tensor.dtype));
}
// Address of (i, j, 0) of a rank-3 tensor.
inline std::byte* row_of(const Tensor& tensor, std::int64_t i, std::int64_t j) {
  return tensor.as<std::byte>() + (i * tensor.stride(0) + j * tensor.stride(1)) *
                                      static_cast<std::int64_t>(dtype_size(tensor.dtype));
}

}  // namespace engine::cpu
