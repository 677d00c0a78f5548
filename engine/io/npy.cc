#include "engine/io/npy.h"

#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/core/check.h"

namespace engine {

static_assert(std::endian::native == std::endian::little, "the header says '<f4'");

NpyWriter::NpyWriter(std::filesystem::path path, std::int64_t rows, std::int64_t columns)
    : path_(std::move(path)),
      temporary_(path_.string() + ".partial." + std::to_string(::getpid())),
      left_(checked_mul(rows, columns, "npy")) {
  // Magic, version 1.0, header length, then a Python dict padded so that the data is 64-byte
  // aligned.
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) +
                     ", " + std::to_string(columns) + "), }";
  constexpr std::size_t kPrefix = 10, kAlign = 64;
  const std::size_t total = (kPrefix + dict.size() + 1 + kAlign - 1) / kAlign * kAlign;
  dict.resize(total - kPrefix - 1, ' ');
  dict += '\n';
  const auto size = static_cast<std::uint16_t>(dict.size());
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(size & 0xff);
  header += static_cast<char>(size >> 8);
  header += dict;

  file_ = std::fopen(temporary_.c_str(), "wb");
  if (file_ == nullptr) fail_write(errno);
  if (std::fwrite(header.data(), 1, header.size(), file_) != header.size()) {
    const int error = errno;  // the destructor doesn't run for what was never constructed
    std::fclose(file_);
    std::remove(temporary_.c_str());
    fail_write(error);
  }
}

NpyWriter::~NpyWriter() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  std::remove(temporary_.c_str());
}

void NpyWriter::append(std::span<const float> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  ENGINE_REQUIRE(count <= left_, "npy: ", count, " values, ", left_, " are left");
  if (std::fwrite(values.data(), sizeof(float), values.size(), file_) != values.size()) {
    fail_write(errno);
  }
  left_ -= count;
}

void NpyWriter::close() {
  ENGINE_REQUIRE(left_ == 0, "npy: ", left_, " values are missing");
  std::FILE* const file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0 || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    std::remove(temporary_.c_str());
    fail_write(error);
  }
}

void NpyWriter::fail_write(int error) const {
  fail(ErrorKind::kIo, path_.string(), ": cannot write: ", std::strerror(error));
}

}  // namespace engine
