#include "bench/result_file.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>
#include <utility>

#include "bench/pending_file.h"
#include "bench/report.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

namespace fs = std::filesystem;

// The content of a file, or nothing where there is none.
std::string read_if_there(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return {};
  ENGINE_CHECK(fs::is_regular_file(status), ErrorKind::kUsage, "--output: ", path.string(),
               ": expected a file");
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  ENGINE_CHECK(stream.good() || stream.eof(), ErrorKind::kIo, path.string(), ": cannot be read");
  return text;
}

std::optional<std::size_t> index_of(const std::vector<std::string>& names,
                                    const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace

Table joined(const Table& table, const Table& more) {
  Table all = table;
  for (const std::string& name : more.header) {
    if (!index_of(all.header, name)) all.header.push_back(name);
  }
  for (auto& row : all.rows) row.resize(all.header.size(), "0");
  for (const auto& row : more.rows) {
    std::vector<std::string> cells;
    for (const std::string& name : all.header) {
      const std::optional<std::size_t> at = index_of(more.header, name);
      cells.push_back(at ? row[*at] : "0");
    }
    all.rows.push_back(std::move(cells));
  }
  return all;
}

ResultFile::ResultFile(fs::path csv) : csv_(std::move(csv)), json_(csv_) {
  ENGINE_CHECK(csv_.extension() == ".csv", ErrorKind::kUsage, "--output: expected FILE.csv, found ",
               csv_.string());
  json_.replace_extension(".json");
  prepare_path("--output", csv_);
  table_ = parse_csv(read_if_there(csv_), csv_.string());
  ENGINE_CHECK(table_.header.empty() ||
                   (index_of(table_.header, "name") && index_of(table_.header, "metric")),
               ErrorKind::kUsage, "--output: ", csv_.string(),
               ": expected a table of results with the columns name and metric");
  lines_ = read_if_there(json_);
  if (!lines_.empty() && lines_.back() != '\n') lines_ += '\n';
}

void ResultFile::append(std::span<const Result> results) {
  Table table = joined(table_, full_table(results));
  std::string lines = lines_ + json_lines(results);
  {
    PendingFile csv(csv_, render_csv(table)), json(json_, lines);
    csv.commit();
    json.commit();
  }
  table_ = std::move(table);
  lines_ = std::move(lines);
}

}  // namespace engine::bench
