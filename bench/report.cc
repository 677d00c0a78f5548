#include "bench/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "kernels/core/check.h"

namespace engine::bench {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string decimals(double value, int digits) {
  const int size = std::snprintf(nullptr, 0, "%.*f", digits, value);
  std::string text(static_cast<std::size_t>(size), '\0');
  std::snprintf(text.data(), text.size() + 1, "%.*f", digits, value);
  return text;
}

std::string cell(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* real = std::get_if<double>(&value)) return decimals(*real, 6);
  return std::to_string(std::get<std::int64_t>(value));
}

std::string cell(const std::optional<double>& value) {
  return value ? decimals(*value, 6) : std::string();
}

double ratio_to_target(const Result& result) {
  return result.target > 0 ? result.actual / result.target : 0;
}

double percent_of_ceiling(const Result& result) {
  return result.ceiling > 0 ? 100 * result.actual / result.ceiling : 0;
}

double spread_percent(const Result& result) {
  return result.values.size() > 1 ? 100 * spread(result.values) : 0;
}

// The names of the results' own columns, in the order of their first appearance.
std::vector<std::string> own_columns(std::span<const Result> results) {
  std::vector<std::string> names;
  const auto note = [&](const Columns& columns) {
    for (const auto& [name, value] : columns) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  };
  for (const Result& result : results) {
    note(result.config);
    note(result.columns);
  }
  return names;
}

std::string cell_of(const Columns& columns, const std::string& name, const std::string& absent) {
  const auto found = std::find_if(columns.begin(), columns.end(),
                                  [&](const auto& column) { return column.first == name; });
  return found == columns.end() ? absent : cell(found->second);
}

// "-" for 0, four significant figures below 1, else two decimals.
std::string short_number(double value) {
  if (value == 0) return "-";
  if (value > -1 && value < 1) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.4g", value);
    return text;
  }
  return decimals(value, 2);
}

}  // namespace

Table full_table(std::span<const Result> results) {
  Table table;
  table.header = {"name",         "metric",          "target",
                  "actual",       "dtype",           "device",
                  "arch",         "is_model",        "ratio_to_target",
                  "ceiling",      "ceiling_percent", "spread_percent",
                  "samples",      "clock_mhz",       "power_w",
                  "temperature_c"};
  const std::vector<std::string> own = own_columns(results);
  table.header.insert(table.header.end(), own.begin(), own.end());
  for (const Result& r : results) {
    std::vector<std::string> row = {r.name,
                                    r.metric,
                                    decimals(r.target, 6),
                                    decimals(r.actual, 6),
                                    r.dtype,
                                    r.device,
                                    r.arch,
                                    r.is_model ? "True" : "False",
                                    decimals(ratio_to_target(r), 6),
                                    decimals(r.ceiling, 6),
                                    decimals(percent_of_ceiling(r), 6),
                                    decimals(spread_percent(r), 6),
                                    std::to_string(r.values.size()),
                                    cell(r.telemetry.clock_mhz),
                                    cell(r.telemetry.power_w),
                                    cell(r.telemetry.temperature_c)};
    for (const std::string& name : own) {
      row.push_back(cell_of(r.config, name, cell_of(r.columns, name, "0")));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table short_table(std::span<const Result> results) {
  Table table;
  table.header = {"name",         "dtype",    "metric",  "actual", "target",      "ratio",
                  "% of ceiling", "spread %", "samples", "device", "MHz / W / °C"};
  std::vector<std::string> configured;
  for (const Result& r : results) {
    for (const auto& [name, value] : r.config) {
      if (std::find(configured.begin(), configured.end(), name) != configured.end()) continue;
      configured.push_back(name);
    }
  }
  table.header.insert(table.header.end(), configured.begin(), configured.end());
  for (const Result& r : results) {
    const auto sensor = [](const std::optional<double>& value) {
      return value ? decimals(*value, 0) : std::string("-");
    };
    table.rows.push_back({r.name, r.dtype, r.metric, short_number(r.actual), short_number(r.target),
                          short_number(ratio_to_target(r)), short_number(percent_of_ceiling(r)),
                          short_number(spread_percent(r)), std::to_string(r.values.size()),
                          r.device,
                          sensor(r.telemetry.clock_mhz) + " / " + sensor(r.telemetry.power_w) +
                              " / " + sensor(r.telemetry.temperature_c)});
    for (const std::string& name : configured) {
      table.rows.back().push_back(cell_of(r.config, name, "-"));
    }
  }
  return table;
}

std::string json_lines(std::span<const Result> results) {
  std::string lines;
  for (const Result& r : results) {
    OrderedJson extra = {{"device", r.device}, {"arch", r.arch}};
    for (const Columns* columns : {&r.config, &r.columns}) {
      for (const auto& column : *columns) {
        std::visit([&](const auto& value) { extra[column.first] = value; }, column.second);
      }
    }
    OrderedJson record;
    record["benchmark"] = {
        {"name", "engine"}, {"mode", "inference"}, {"dtype", r.dtype}, {"extra_info", extra}};
    record["model"] = {{"name", r.name},
                       {"type", r.is_model ? "OSS model" : "micro-benchmark"},
                       {"origins", OrderedJson::array({"pytorch"})}};
    record["metric"] = {
        {"name", r.metric}, {"benchmark_values", r.values}, {"target_value", r.target}};
    // A path among the columns may hold any bytes.
    lines += record.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  }
  return lines;
}

std::string render(std::span<const Result> results, OutputFormat format) {
  switch (format) {
    case OutputFormat::kTable:
      return render_text(short_table(results));
    case OutputFormat::kMarkdown:
      return render_markdown(short_table(results));
    case OutputFormat::kCsv:
      return render_csv(full_table(results));
    case OutputFormat::kJson:
      return json_lines(results);
  }
  fail(ErrorKind::kInternal, "an output format that doesn't exist");
}

}  // namespace engine::bench
