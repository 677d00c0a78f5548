// The safetensors container: one file of named tensors.
//
//   bytes 0-7   N, the length of the header, unsigned little-endian
//   N bytes     JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} and
//   optionally
//               "__metadata__", strings by strings; may be padded with blanks
//   the rest    the data; offsets count from its first byte
//
// Opening a file enforces what the reference reader does (huggingface/safetensors,
// safetensors/src/tensor.rs): N <= 100,000,000 and inside the file; strict JSON; the tensors in
// order of their offsets cover the data without a hole or an overlap; end - begin equals the size
// that dtype and shape give; the data ends where the file ends. Beyond it, duplicate names and
// metadata keys are refused, and so are more than 64 dimensions, a dimension of 2^63 or more and a
// name or metadata string over 4 MiB. Keys of a tensor that this reader does not know are skipped.
//
// The header is read in pieces: memory is what the tensor list itself takes. Each refusal is
// Error{kModel} naming the file and, where there is one, the tensor.
//
// A SafetensorsFile owns its file, is move-only, and its const methods are safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/io/file.h"

namespace engine {

enum class SafetensorsDType : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

// The name in the file: "BF16", "F8_E4M3".
std::string_view safetensors_dtype_name(SafetensorsDType dtype);
// Bits of one element: 4 to 64.
int safetensors_dtype_bits(SafetensorsDType dtype);

struct SafetensorsTensor {
  std::string name;
  SafetensorsDType dtype;
  std::vector<std::int64_t> shape;  // row-major; empty for a scalar, dimensions may be 0
  std::uint64_t offset;             // of the first byte, from the start of the file
  std::uint64_t bytes;
};

// "[2, 3]".
std::string shape_text(const std::vector<std::int64_t>& shape);

class SafetensorsFile {
 public:
  // Opens the file and checks its whole header. No tensor data is read.
  explicit SafetensorsFile(const std::filesystem::path& path);

  // In order of their place in the file.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  const File& file() const { return file_; }

  // Give the content away; the object is then only good for destruction.
  std::vector<SafetensorsTensor> take_tensors() { return std::move(tensors_); }
  File take_file() { return std::move(file_); }

 private:
  File file_;
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace engine
