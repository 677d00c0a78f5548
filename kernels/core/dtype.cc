#include "kernels/core/dtype.h"

#include "kernels/core/check.h"

namespace engine {

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

std::ostream& operator<<(std::ostream& out, DType dtype) { return out << dtype_name(dtype); }

QuantFormat plain_format(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return QuantFormat::kF32;
    case DType::kF16:
      return QuantFormat::kF16;
    case DType::kBF16:
      return QuantFormat::kBF16;
    default:
      fail(ErrorKind::kInternal, "no weight format stores ", dtype);
  }
}

}  // namespace engine
