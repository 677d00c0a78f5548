#include "kernels/cpu/pack.h"

#include <cstring>
#include <memory>
#include <utility>

#include "kernels/core/check.h"

namespace engine::cpu {

PackedWeight pack(Backend& backend, const std::string& name, Buffer source, DType dtype,
                  std::int64_t rows, std::int64_t columns, QuantFormat format) {
  ENGINE_REQUIRE(is_float(dtype), "pack: ", name, " is of type ", dtype);
  const Tensor matrix = source.tensor(dtype, {rows, columns});
  PackedWeight packed;
  if (format == plain_format(dtype)) {  // stored as the ops read it
    packed.weight = {.data = matrix.data,
                     .scales = nullptr,
                     .format = format,
                     .rows = rows,
                     .columns = columns,
                     .device = backend.device()};
    packed.memory.push_back(std::move(source));
    return packed;
  }
  // An uploader that reads from memory: one place knows how rows are converted and laid out.
  const std::size_t row_bytes = static_cast<std::size_t>(columns) * dtype_size(dtype);
  const std::unique_ptr<Uploader> uploader = backend.uploader();
  HostWeight part = {.name = name,
                     .dtype = dtype,
                     .rows = rows,
                     .columns = columns,
                     .read = [data = matrix.as<const std::byte>(), row_bytes](
                                 std::int64_t row, std::int64_t count, std::byte* destination) {
                       std::memcpy(destination, data + static_cast<std::size_t>(row) * row_bytes,
                                   static_cast<std::size_t>(count) * row_bytes);
                     }};
  packed.weight = uploader->add({std::move(part)}, format);
  packed.memory = uploader->finish(nullptr);
  return packed;
}

}  // namespace engine::cpu
