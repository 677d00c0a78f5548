// The files that results are kept in: a CSV, and the same as JSON beside it.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "bench/result.h"
#include "bench/table.h"

namespace engine::bench {

// FILE.csv and FILE.json. Both are written whole or not at all: beside the old ones, which are then
// replaced. Used by one thread.
class ResultFile {
 public:
  // Reads what is there and makes the parent folder where it is missing, so that what could fail
  // fails before the benchmarks run. Throws Error{kUsage} where the name doesn't end in .csv or the
  // file isn't such a table, and Error{kIo}.
  explicit ResultFile(std::filesystem::path csv);

  // Adds the results behind what is there: rows to the CSV, whose header keeps its columns and
  // gains those it lacks (older rows are filled with 0), and a line each to the JSON. Throws
  // Error{kIo}.
  void append(std::span<const Result> results);

  const std::filesystem::path& csv_path() const { return csv_; }
  const std::filesystem::path& json_path() const { return json_; }

 private:
  std::filesystem::path csv_, json_;
  Table table_;
  std::string lines_;
};

// `table` with the rows of `more` behind its own: columns go by name, those that only `more` has
// come last, and cells that a row lacks are "0".
Table joined(const Table& table, const Table& more);

}  // namespace engine::bench
