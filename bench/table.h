// Text tables: aligned for people, Markdown, and CSV (RFC 4180) both ways.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace engine::bench {

// Every row has as many cells as the header.
struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};

// Columns as wide as their widest cell; cells that are numbers stand to the right.
std::string render_text(const Table& table);
std::string render_markdown(const Table& table);
// Lines end in \n; cells with a comma, a quote or a line break are quoted.
std::string render_csv(const Table& table);

// The table of a CSV file: its first line is the header; shorter rows are filled with "0". `file`
// names it in messages. Throws Error{kUsage} for a row longer than the header and for a quote that
// does not end.
Table parse_csv(std::string_view text, const std::string& file);

}  // namespace engine::bench
