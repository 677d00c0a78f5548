#include "bench/result.h"

#include <algorithm>
#include <numeric>

#include "kernels/core/check.h"

namespace engine::bench {

const char* row_dtype(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

std::string unit_of(const std::string& metric) {
  const std::size_t open = metric.rfind('(');
  if (open != std::string::npos && metric.ends_with(')')) {
    return metric.substr(open + 1, metric.size() - open - 2);
  }
  return metric.ends_with("token_per_sec") ? "tokens/s" : "";
}

std::string without_unit(const std::string& metric) {
  const std::size_t open = metric.rfind('(');
  if (open == std::string::npos || !metric.ends_with(')')) return metric;
  const std::size_t last = metric.find_last_not_of(' ', open == 0 ? 0 : open - 1);
  return metric.substr(0, last == std::string::npos ? open : last + 1);
}

bool lower_is_better(const std::string& metric) {
  const std::string unit = unit_of(metric);
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
