// One row of a benchmark's results, and the statistics that go into it. Plain values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/measure.h"

namespace engine::bench {

// A further column of a row: what the run was made with.
using Value = std::variant<std::int64_t, double, std::string>;
using Columns = std::vector<std::pair<std::string, Value>>;

struct Result {
  std::string name;            // of the model or kernel
  std::string metric;          // "token_per_sec"
  double target = 0;           // in the metric's unit; 0: there is none
  double actual = 0;           // in the metric's unit
  std::string dtype;           // "bfloat16"
  std::string device;          // "cuda" or "cpu"
  std::string arch;            // the card's name or the machine's architecture
  bool is_model = false;       // a whole model, or a kernel
  std::vector<double> values;  // every sample, in the metric's unit
  double ceiling = 0;          // measured in the same run, in the metric's unit; 0: there is none
  Telemetry telemetry;         // at the end of the samples
  Columns config;              // what was run, in tables for people too
  Columns columns;             // what else a file should say
};

// "bfloat16", "float16", "float32": how the rows of kernels call a floating-point type.
const char* row_dtype(DType dtype);

double mean(std::span<const double> values);
// The middle value, or the mean of the two in the middle.
double median(std::span<const double> values);
// (largest − smallest) ÷ median.
double spread(std::span<const double> values);

}  // namespace engine::bench
