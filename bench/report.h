// Results as tables and as records.
#pragma once

#include <span>
#include <string>

#include "bench/result.h"
#include "bench/table.h"

namespace engine::bench {

// How results are printed on stdout.
enum class OutputFormat { kTable, kMarkdown, kCsv, kJson };

// Every column: name, metric, target, actual, dtype, device, arch, is_model; then the ratio to the
// target, the share of the ceiling, spread, samples, clock, power and temperature; then each
// result's own columns. Numbers have six decimals; a column that a result lacks is 0, what a device
// doesn't say is empty.
Table full_table(std::span<const Result> results);

// The columns that people read first, rounded; "-" where there is nothing.
Table short_table(std::span<const Result> results);

// One JSON object a line: benchmark {name, mode, dtype, extra_info}, model {name, type, origins},
// metric {name, benchmark_values, target_value}. The columns of a result follow device and arch in
// extra_info.
std::string json_lines(std::span<const Result> results);

// The results in `format`.
std::string render(std::span<const Result> results, OutputFormat format);

}  // namespace engine::bench
