// The text of bench/peers/h200.csv; CMake makes its source from the file.
#pragma once

#include <string_view>

namespace engine::bench {

extern const std::string_view kPeersCsv;

}  // namespace engine::bench
