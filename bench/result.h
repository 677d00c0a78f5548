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

// What one timed call computes and must at least move, and how long it took: where it stands under
// a roofline. All zero: nobody counted.
struct Work {
  double flops = 0;
  double bytes = 0;  // operands read once, results written once
  double seconds = 0;
};

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
  Work work;
  bool headline = false;  // speaks for its experiment where there is room for few
  Telemetry telemetry;    // at the end of the samples
  Columns config;         // what was run, in tables for people too
  Columns columns;        // what else a file should say
};

// "bfloat16", "float16", "float32": how the rows of kernels call a floating-point type.
const char* row_dtype(DType dtype);

// What a metric counts in: "GB/s" of "copy(GB/s)", "tokens/s" of "token_per_sec"; empty where it
// isn't a unit that is known: a ratio.
std::string unit_of(const std::string& metric);
// A metric without its unit in brackets: "copy" of "copy(GB/s)".
std::string without_unit(const std::string& metric);
// Less of it is better: a time, a size, and what the source calls flops_utilization, which grows
// with the time.
bool lower_is_better(const std::string& metric);

double mean(std::span<const double> values);
// The middle value, or the mean of the two in the middle.
double median(std::span<const double> values);
// (largest − smallest) ÷ median.
double spread(std::span<const double> values);

}  // namespace engine::bench
