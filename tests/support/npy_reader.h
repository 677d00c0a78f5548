// Reads the .npy files that the tests meet, byte by byte: format version 1.0, float32, two
// dimensions, C order.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine::test {

struct NpyMatrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<float> values;

  const float* row(std::int64_t index) const { return values.data() + index * columns; }
};

inline NpyMatrix read_npy(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const auto require = [&](bool condition, const char* what) {
    if (!condition) throw std::runtime_error(path.string() + ": " + what);
  };
  constexpr std::size_t kPrefix = 10;
  require(bytes.size() > kPrefix && bytes.compare(0, 8, "\x93NUMPY\x01\x00", 8) == 0, "no magic");
  const auto length = static_cast<std::size_t>(static_cast<unsigned char>(bytes[8])) |
                      static_cast<std::size_t>(static_cast<unsigned char>(bytes[9])) << 8;
  require(bytes.size() >= kPrefix + length, "the header is cut");
  require((kPrefix + length) % 64 == 0, "the data is not aligned to 64 bytes");
  const std::string header = bytes.substr(kPrefix, length);
  require(header.back() == '\n', "the header does not end its line");
  const std::regex form(
      "\\{'descr': '<f4', 'fortran_order': False, 'shape': \\((\\d+), (\\d+)\\), \\} *\n");
  std::smatch match;
  require(std::regex_match(header, match, form), "the header is not as expected");
  NpyMatrix matrix;
  matrix.rows = std::stoll(match[1]);
  matrix.columns = std::stoll(match[2]);
  const std::size_t count = static_cast<std::size_t>(matrix.rows * matrix.columns);
  require(bytes.size() == kPrefix + length + count * sizeof(float), "the data has another size");
  matrix.values.resize(count);
  if (count > 0) {
    std::memcpy(matrix.values.data(), bytes.data() + kPrefix + length, count * sizeof(float));
  }
  return matrix;
}

}  // namespace engine::test
