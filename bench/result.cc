#include "bench/result.h"

#include <algorithm>
#include <numeric>

#include "kernels/core/check.h"

namespace engine::bench {

const char* row_dtype(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

std::string unit_of(const std::string& metric) {
  for (const char* unit : {"GB/s", "TFLOP/s", "GB", "s", "ms", "µs", "nats"}) {
    if (metric.ends_with(concat("(", unit, ")"))) return unit;
  }
  return metric.ends_with("token_per_sec") ? "tokens/s" : "";
}

std::string without_unit(const std::string& metric) {
  const std::string unit = unit_of(metric);
  if (unit.empty() || !metric.ends_with(')')) return metric;
  std::string stem = metric.substr(0, metric.size() - unit.size() - 2);
  if (stem.ends_with(' ')) stem.pop_back();
  return stem;
}

bool lower_is_better(const std::string& metric) {
  const std::string unit = unit_of(metric);
  if (metric.ends_with("(source formula)")) return true;
  return unit == "s" || unit == "ms" || unit == "µs" || unit == "GB" || unit == "nats";
}

double mean(std::span<const double> values) {
  ENGINE_REQUIRE(!values.empty(), "the mean of no values");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double median(std::span<const double> values) {
  ENGINE_REQUIRE(!values.empty(), "the median of no values");
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

double spread(std::span<const double> values) {
  const double middle = median(values);
  if (middle == 0) return 0;
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return (*most - *least) / middle;
}

}  // namespace engine::bench
