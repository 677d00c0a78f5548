// Builds the bytes of small safetensors files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/core/check.h"

namespace engine::test {

// The 8 bytes of a header length.
inline std::string length_bytes(std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) {
    bytes += static_cast<char>(length >> (8 * i) & 0xff);
  }
  return bytes;
}

// A file of this header and this data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data = {}) {
  return length_bytes(header.size()) + std::string(header) + std::string(data);
}

// A header entry: "name":{"dtype":...,"shape":[...],"data_offsets":[begin,end]}.
inline std::string header_entry(const std::string& name, const std::string& dtype,
                                const std::string& shape, std::uint64_t begin, std::uint64_t end) {
  return concat('"', name, "\":{\"dtype\":\"", dtype, "\",\"shape\":[", shape,
                "],\"data_offsets\":[", begin, ",", end, "]}");
}

}  // namespace engine::test
