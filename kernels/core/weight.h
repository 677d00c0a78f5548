// A weight matrix as ops see it, and as a checkpoint hands it over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/tensor.h"
#include "quant/format.h"

namespace engine {

// A matrix of `rows` output channels by `columns` inputs, stored in one of quant's formats. The
// only place a format shows outside quant/ and the kernels. Non-owning, plain data; which layout
// `data` has is known to the backend that made it, and one layout serves all of that backend's
// paths.
struct Weight {
  const void* data = nullptr;
  const void* scales = nullptr;  // formats that have scales: one per row
  QuantFormat format = QuantFormat::kF32;
  std::int64_t rows = 0;     // N of a linear
  std::int64_t columns = 0;  // K of a linear
  Device device;

  explicit operator bool() const { return data != nullptr; }
  // Bytes a product reads: weights and scales.
  std::size_t bytes() const {
    const auto k = static_cast<std::size_t>(columns);
    const FormatInfo& info = format_info(format);
    return static_cast<std::size_t>(rows) * (info.row_bytes(k) + info.scale_bytes);
  }
};

// One matrix of a checkpoint. A backend pulls rows of it, in pieces and from several threads.
struct HostWeight {
  std::string name;  // for messages
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  // Writes rows [row, row + count), dense, in `dtype`, to dst. Thread-safe. Throws Error.
  std::function<void(std::int64_t row, std::int64_t count, std::byte* dst)> read;
};

}  // namespace engine
