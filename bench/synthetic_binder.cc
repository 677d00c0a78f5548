#include "bench/synthetic_binder.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "kernels/core/check.h"

namespace engine::bench {

std::size_t SyntheticBinder::staging_bytes() const {
  std::size_t most = 0;
  for (const Request& request : requests()) {
    if (request.matrix == nullptr || request.format == plain_format(dtype_)) continue;
    const auto elements = static_cast<std::size_t>(request.matrix->rows * request.columns);
    most = std::max(most, elements * dtype_size(dtype_));
  }
  return most;
}

SyntheticBinder::Made SyntheticBinder::make(Backend& backend, Measure& measure, std::uint64_t seed,
                                            const std::atomic<bool>* interrupt) const {
  using Clock = std::chrono::steady_clock;
  Made made;
  std::uint64_t stream = 0;  // which tensor: each is a sequence of its own
  for (const Request& request : requests()) {
    if (interrupt != nullptr && interrupt->load()) throw Interrupted{};
    const std::int64_t rows = request.matrix != nullptr ? request.matrix->rows : 1;
    const std::int64_t columns = request.columns;
    Buffer source = backend.allocate(static_cast<std::size_t>(rows * columns) * dtype_size(dtype_));
    const Tensor values = source.tensor(dtype_, {rows, columns});
    if (request.matrix != nullptr) {
      measure.fill_normal(values, kSigma, {.seed = seed, .stream = stream});
    } else {
      measure.fill_constant(values, 1.0f);
    }
    ++stream;
    backend.synchronize();
    const Clock::time_point start = Clock::now();
    PackedWeight packed = backend.pack(request.parts.front().name, std::move(source), dtype_, rows,
                                       columns, request.format);
    backend.synchronize();
    made.pack_s += std::chrono::duration<double>(Clock::now() - start).count();
    fulfil(request, packed.weight);
    std::move(packed.memory.begin(), packed.memory.end(), std::back_inserter(made.memory));
  }
  resolve_aliases();
  return made;
}

}  // namespace engine::bench
