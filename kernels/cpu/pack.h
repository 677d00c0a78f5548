// Weights made of matrices that are in memory already.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"

namespace engine::cpu {

// Backend::pack on the CPU.
PackedWeight pack(Backend& backend, const std::string& name, Buffer source, DType dtype,
                  std::int64_t rows, std::int64_t columns, QuantFormat format);

}  // namespace engine::cpu
