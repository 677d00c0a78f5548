#include "bench/compare.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/check.h"

namespace engine::bench {
namespace {

constexpr std::array kAlways = {"name", "metric", "dtype", "device"};
// What tells runs of one experiment apart.
constexpr std::array kWhereBoth = {"layers", "weights", "prompt_tokens", "new_tokens"};

using Key = std::vector<std::string>;

std::size_t column(const Table& table, const std::string& name) {
  const auto found = std::find(table.header.begin(), table.header.end(), name);
  ENGINE_CHECK(found != table.header.end(), ErrorKind::kUsage,
               "compare: expected a table of results, found one without the column ", name);
  return static_cast<std::size_t>(found - table.header.begin());
}

bool has(const Table& table, const std::string& name) {
  return std::find(table.header.begin(), table.header.end(), name) != table.header.end();
}

double number(const std::string& cell) {
  double value = 0;
  const char* end = cell.data() + cell.size();
  const auto [stop, error] = std::from_chars(cell.data(), end, value);
  ENGINE_CHECK(error == std::errc() && stop == end, ErrorKind::kUsage,
               "compare: expected a number under actual, found '", cell, "'");
  return value;
}

// The values of `table` by key; `order` gets the keys that are new.
std::map<Key, double> values(const Table& table, const std::vector<std::string>& names,
                             std::vector<Key>* order) {
  std::map<Key, double> found;
  for (const auto& row : table.rows) {
    Key key;
    for (const std::string& name : names) key.push_back(row[column(table, name)]);
    if (std::find(order->begin(), order->end(), key) == order->end()) order->push_back(key);
    found[key] = number(row[column(table, "actual")]);
  }
  return found;
}

std::string text(const std::optional<double>& value) {
  if (!value) return "-";
  char buffer[64];
  std::snprintf(buffer, sizeof(buffer), "%.6f", *value);
  return buffer;
}

std::optional<double> find(const std::map<Key, double>& values, const Key& key) {
  const auto found = values.find(key);
  return found == values.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace

Table compare(const Table& a, const Table& b) {
  for (const Table* table : {&a, &b}) {
    for (const char* name : kAlways) static_cast<void>(column(*table, name));
    static_cast<void>(column(*table, "actual"));
  }
  std::vector<std::string> names(kAlways.begin(), kAlways.end());
  for (const std::string name : kWhereBoth) {
    if (has(a, name) && has(b, name)) names.push_back(name);
  }
  std::vector<Key> order;
  const std::map<Key, double> in_a = values(a, names, &order), in_b = values(b, names, &order);
  Table table;
  table.header = names;
  table.header.insert(table.header.end(), {"a", "b", "ratio"});
  for (const Key& key : order) {
    const std::optional<double> from = find(in_a, key), to = find(in_b, key);
    std::optional<double> ratio;
    if (from && to && *from != 0) ratio = *to / *from;
    std::vector<std::string> row = key;
    row.insert(row.end(), {text(from), text(to), text(ratio)});
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace engine::bench
