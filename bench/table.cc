#include "bench/table.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <utility>

#include "kernels/core/check.h"

namespace engine::bench {
namespace {

bool is_number(std::string_view cell) {
  double value = 0;
  const char* end = cell.data() + cell.size();
  const auto [stop, error] = std::from_chars(cell.data(), end, value);
  return error == std::errc() && (stop == end || *stop == ' ' || *stop == '%');
}

// Columns that a terminal shows: bytes that continue a UTF-8 character take none.
std::size_t width_of(std::string_view cell) {
  return static_cast<std::size_t>(std::count_if(cell.begin(), cell.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

std::string padded(const std::string& cell, std::size_t width, bool right) {
  const std::string blank(width - std::min(width, width_of(cell)), ' ');
  return right ? blank + cell : cell + blank;
}

std::string csv_cell(const std::string& cell) {
  if (cell.find_first_of(",\"\r\n") == std::string::npos) return cell;
  std::string quoted = "\"";
  for (const char c : cell) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += ',';
    line += csv_cell(cells[i]);
  }
  return line + '\n';
}

std::string markdown_line(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) {
    line += ' ';
    for (const char c : cell) line += c == '|' ? std::string("\\|") : std::string(1, c);
    line += " |";
  }
  return line + "\n";
}

// The records of a CSV text.
class CsvReader {
 public:
  CsvReader(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  bool done() const { return at_ == text_.size(); }
  int line() const { return line_; }

  std::vector<std::string> record() {
    std::vector<std::string> cells = {cell()};
    while (!done() && text_[at_] == ',') {
      ++at_;
      cells.push_back(cell());
    }
    if (!done() && text_[at_] == '\r') ++at_;
    if (!done() && text_[at_] == '\n') {
      ++at_;
      ++line_;
    }
    return cells;
  }

 private:
  std::string cell() {
    if (done() || text_[at_] != '"') {
      const std::size_t end = std::min(text_.find_first_of(",\r\n", at_), text_.size());
      return std::string(text_.substr(std::exchange(at_, end), end - at_));
    }
    std::string cell;
    const int opened = line_;
    for (++at_; !done(); ++at_) {
      if (text_[at_] == '\n') ++line_;
      if (text_[at_] != '"') {
        cell += text_[at_];
      } else if (at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
        cell += text_[++at_];
      } else {
        ++at_;
        ENGINE_CHECK(done() || std::string_view(",\r\n").find(text_[at_]) != std::string::npos,
                     ErrorKind::kUsage, file_, ":", line_,
                     ": expected a comma after a quoted cell, found '", text_[at_], "'");
        return cell;
      }
    }
    fail(ErrorKind::kUsage, file_, ":", opened, ": a quoted cell has no end");
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

std::string render_text(const Table& table) {
  std::vector<std::size_t> widths;
  for (const std::string& name : table.header) widths.push_back(width_of(name));
  for (const auto& row : table.rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string text;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (i > 0) line += "  ";
      line += padded(cells[i], widths[i], is_number(cells[i]));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  add_line(table.header);
  for (const auto& row : table.rows) add_line(row);
  return text;
}

std::string render_markdown(const Table& table) {
  std::string text = markdown_line(table.header) + "|";
  for (std::size_t i = 0; i < table.header.size(); ++i) text += "---|";
  text += "\n";
  for (const auto& row : table.rows) text += markdown_line(row);
  return text;
}

std::string render_csv(const Table& table) {
  std::string text = csv_line(table.header);
  for (const auto& row : table.rows) text += csv_line(row);
  return text;
}

Table parse_csv(std::string_view text, const std::string& file) {
  Table table;
  CsvReader reader(text, file);
  if (reader.done()) return table;
  table.header = reader.record();
  while (!reader.done()) {
    const int line = reader.line();
    std::vector<std::string> row = reader.record();
    if (row.size() == 1 && row[0].empty()) continue;  // a blank line
    ENGINE_CHECK(row.size() <= table.header.size(), ErrorKind::kUsage, file, ":", line,
                 ": expected at most ", table.header.size(), " cells, found ", row.size());
    row.resize(table.header.size(), "0");
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace engine::bench
