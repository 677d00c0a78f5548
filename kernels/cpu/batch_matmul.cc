// Products of many small matrices: a work item is a row of one of them.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

const std::byte* row_at(const Tensor& tensor, std::int64_t n, std::int64_t m, std::int64_t row) {
  return tensor.as<std::byte>() +
         (n * tensor.stride(0) + m * tensor.stride(1) + row * tensor.stride(2)) *
             static_cast<std::int64_t>(dtype_size(tensor.dtype));
}

constexpr std::int64_t kRows = 32;  // of a and out in a work item

}  // namespace

void batch_matmul(const Context& context, const BatchMatmulCall& call) {
  const std::int64_t planes = call.a.size(0) * call.a.size(1), inner = call.a.size(3);
  const std::int64_t rows = call.out.size(2), columns = call.out.size(3);
  const auto widen = context.kernels->to_float[type_index(call.a.dtype)];
  const auto narrow = context.kernels->from_float[type_index(call.a.dtype)];
  const std::int64_t blocks = ceil_div(rows, kRows);
  constexpr auto kFloats = static_cast<std::int64_t>(Context::kScratchBytes / sizeof(float));
  const std::int64_t step = std::min(rows, kRows);
  ENGINE_CHECK(step * (inner + columns) + std::max(inner, columns) <= kFloats,
               ErrorKind::kUnsupported, "batch_matmul: rows of ", inner, " and ", columns,
               " elements are too long for the CPU");
  parallel_for(
      context, planes * blocks, step * inner * columns, [&](std::int64_t item, int worker) {
        const std::int64_t n = item / blocks / call.a.size(1), m = item / blocks % call.a.size(1);
        const std::int64_t first = item % blocks * kRows, count = std::min(kRows, rows - first);
        float* a = context.thread_scratch(worker);  // (count, inner), then out (count, columns), b
        float *out = a + count * inner, *b = out + count * columns;
        for (std::int64_t i = 0; i < count; ++i) {
          widen(row_at(call.a, n, m, first + i), a + i * inner, inner);
        }
        std::fill_n(out, count * columns, 0.0f);
        if (call.b_rows_summed) {
          for (std::int64_t j = 0; j < inner; ++j) {
            widen(row_at(call.b, n, m, j), b, columns);
            for (std::int64_t i = 0; i < count; ++i) {
              const float factor = a[i * inner + j];
              for (std::int64_t c = 0; c < columns; ++c) out[i * columns + c] += factor * b[c];
            }
          }
        } else {
          for (std::int64_t c = 0; c < columns; ++c) {
            widen(row_at(call.b, n, m, c), b, inner);
            for (std::int64_t i = 0; i < count; ++i) {
              float sum = 0.0f;
              for (std::int64_t j = 0; j < inner; ++j) sum += a[i * inner + j] * b[j];
              out[i * columns + c] = sum;
            }
          }
        }
        for (std::int64_t i = 0; i < count; ++i) {
          for (std::int64_t c = 0; c < columns; ++c) out[i * columns + c] *= call.scale;
          narrow(out + i * columns, const_cast<std::byte*>(row_at(call.out, n, m, first + i)),
                 columns);
        }
      });
}

}  // namespace engine::cpu
