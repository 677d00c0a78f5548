#include "bench/bars.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "bench/html.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

std::string text_of(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* real = std::get_if<double>(&value)) return concat(*real);  // as it was asked for
  return std::to_string(std::get<std::int64_t>(value));
}

// The columns that say what was run, without those that were measured.
Columns configuration(const Result& result) {
  Columns columns;
  for (const auto& column : result.config) {
    if (!column.first.ends_with("_us")) columns.push_back(column);
  }
  return columns;
}

// The metric without its unit; the mean over sizes says so.
std::string stem_of(const Result& result) {
  std::string stem = without_unit(result.metric);
  for (const auto& [name, value] : result.columns) {
    if (name == "size" && text_of(value) == "mean") stem += " (mean)";
  }
  return stem;
}

std::vector<std::string> parts_of(const Result& result) {
  std::vector<std::string> parts = {stem_of(result), result.dtype};
  if (result.is_model) parts.insert(parts.begin(), result.name);
  for (const auto& [name, value] : configuration(result)) {
    parts.push_back(std::holds_alternative<std::string>(value) ? text_of(value)
                                                               : concat(name, " ", text_of(value)));
  }
  return parts;
}

// Results whose bars share a scale have the same key.
std::string scale_key(const Result& result) {
  std::string key = unit_of(result.metric);
  if (key.empty()) return lower_is_better(result.metric) ? "less" : "more";
  if (result.metric.starts_with("prefill_")) return concat(key, " prefill");
  const Columns columns = configuration(result);
  if (columns.empty()) return key;
  if (!lower_is_better(result.metric)) return concat(key, " ", without_unit(result.metric));
  for (const auto& [name, value] : columns) key += concat(" ", name, "=", text_of(value));
  return concat(key, " ", result.dtype);
}

bool has_bar(const Result& result, const std::vector<Peer>& peers) {
  return result.target > 0 || result.ceiling > 0 || !peers.empty() ||
         !unit_of(result.metric).empty();
}

std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& part : parts) all += concat(all.empty() ? "" : ", ", part);
  return all;
}

double largest(const Bar& bar) {
  double most = std::max({bar.actual, bar.target, bar.ceiling});
  for (const Peer& peer : bar.peers) most = std::max(most, peer.value);
  return most;
}

Bar bar_of(const Result& result, std::string label, std::span<const Peer> peers) {
  return {.label = std::move(label),
          .unit = unit_of(result.metric),
          .actual = result.actual,
          .target = result.target,
          .ceiling = result.ceiling,
          .peers = peers_of(result, peers),
          .headline = result.headline};
}

// What all of `rows` say goes into the title, what tells them apart into the labels.
BarGroup group_of(const std::vector<const Result*>& rows, std::span<const Peer> peers) {
  BarGroup group;
  group.lower_is_better = lower_is_better(rows.front()->metric);
  const std::vector<std::string> first = parts_of(*rows.front());
  const auto is_common = [&](const std::string& part) {
    return std::all_of(rows.begin(), rows.end(), [&](const Result* row) {
      const std::vector<std::string> parts = parts_of(*row);
      return std::find(parts.begin(), parts.end(), part) != parts.end();
    });
  };
  std::vector<std::string> common;
  for (const std::string& part : first) {
    const bool named_by_it = rows.size() == 1 && part == stem_of(*rows.front());
    if (is_common(part) && !named_by_it) common.push_back(part);
  }
  group.title = joined(common);
  for (const Result* row : rows) {
    std::vector<std::string> own;
    for (const std::string& part : parts_of(*row)) {
      if (std::find(common.begin(), common.end(), part) == common.end()) own.push_back(part);
    }
    group.bars.push_back(bar_of(*row, joined(own), peers));
    group.scale = std::max(group.scale, largest(group.bars.back()));
  }
  return group;
}

// "score_mod, fwd_rate, 16 × 16 × 4096 × 128, noop, bfloat16"; what a unit says by itself is left
// out: "llama2-7b, bfloat16".
std::string headline_of(const std::string& experiment, const Result& result) {
  std::string numbers, words;
  for (const auto& [name, value] : configuration(result)) {
    if (std::holds_alternative<std::string>(value)) {
      words += concat(", ", text_of(value));
    } else {
      numbers += concat(numbers.empty() ? ", " : " × ", text_of(value));
    }
  }
  const std::string metric = without_unit(result.metric);
  const bool plain = metric == "token_per_sec" || metric == "memory_bandwidth";
  return concat(experiment, plain ? "" : ", " + metric, numbers, words, ", ", result.dtype);
}

}  // namespace

std::vector<BarGroup> bar_groups(const Section& section, std::span<const Peer> peers) {
  std::vector<std::string> keys;
  std::vector<std::vector<const Result*>> rows;
  for (const Result& result : section.results) {
    if (!has_bar(result, peers_of(result, peers))) continue;
    const std::string key = scale_key(result);
    const auto at = std::find(keys.begin(), keys.end(), key) - keys.begin();
    if (static_cast<std::size_t>(at) == keys.size()) {
      keys.push_back(key);
      rows.emplace_back();
    }
    rows[static_cast<std::size_t>(at)].push_back(&result);
  }
  std::vector<BarGroup> groups;
  for (const auto& own : rows) groups.push_back(group_of(own, peers));
  return groups;
}

BarGroup headlines(std::span<const Section> sections, std::span<const Peer> peers) {
  BarGroup group = {.title = "share of the ceiling measured in the same run",
                    .lower_is_better = false,
                    .of_ceiling = true,
                    .scale = 1,
                    .bars = {}};
  for (const Section& section : sections) {
    for (const Result& result : section.results) {
      const bool fits = result.ceiling > 0 && !lower_is_better(result.metric);
      if (!result.headline || !fits) continue;
      group.bars.push_back(bar_of(result, headline_of(section.experiment, result), peers));
      group.scale = std::max(group.scale, largest(group.bars.back()) / result.ceiling);
    }
  }
  return group;
}

double length_percent(const BarGroup& group, const Bar& bar, double value) {
  const double scale = group.of_ceiling ? group.scale * bar.ceiling : group.scale;
  return scale > 0 ? std::clamp(100 * value / scale, 0.0, 100.0) : 0;
}

double times_better(const BarGroup& group, double actual, double other) {
  if (actual <= 0 || other <= 0) return 0;
  return group.lower_is_better ? other / actual : actual / other;
}

}  // namespace engine::bench
