// Writing a float32 matrix as NumPy's .npy (format version 1.0), row by row.
//
// The file appears whole or not at all: rows go to a neighbour of `path`, which close() renames.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>

namespace engine {

class NpyWriter {
 public:
  // A (rows, columns) matrix. Throws Error{kIo} naming the file.
  NpyWriter(std::filesystem::path path, std::int64_t rows, std::int64_t columns);
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  // Appends whole rows, in order.
  void append(std::span<const float> values);
  // All rows are there: flushes and renames. Throws Error{kIo}; without it the file never appears.
  void close();

 private:
  [[noreturn]] void fail_write(int error) const;

  std::filesystem::path path_, temporary_;
  std::FILE* file_ = nullptr;
  std::int64_t left_ = 0;  // values still to come
};

}  // namespace engine
