#include "bench/peers.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <sstream>
#include <variant>

#include "bench/peers_data.h"
#include "bench/table.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

std::optional<double> number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

bool equals(const Value& value, const std::string& wanted) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text == wanted;
  const std::optional<double> other = number(wanted);
  const auto* real = std::get_if<double>(&value);
  return other == (real ? *real : static_cast<double>(std::get<std::int64_t>(value)));
}

bool has(const Result& result, const std::pair<std::string, std::string>& wanted) {
  for (const Columns* columns : {&result.config, &result.columns}) {
    for (const auto& [name, value] : *columns) {
      if (name == wanted.first) return equals(value, wanted.second);
    }
  }
  return false;
}

bool belongs(const Result& result, const Peer& peer) {
  return peer.name == result.name && peer.metric == result.metric && peer.dtype == result.dtype &&
         peer.arch == result.arch &&
         std::all_of(peer.config.begin(), peer.config.end(),
                     [&](const auto& wanted) { return has(result, wanted); });
}

std::vector<std::pair<std::string, std::string>> parse_config(const std::string& text,
                                                              const std::string& where) {
  std::vector<std::pair<std::string, std::string>> config;
  std::istringstream stream(text);
  for (std::string pair; stream >> pair;) {
    const std::size_t equal = pair.find('=');
    ENGINE_CHECK(equal != std::string::npos && equal > 0, ErrorKind::kUsage, where,
                 ": expected column=value under config, found '", pair, "'");
    config.emplace_back(pair.substr(0, equal), pair.substr(equal + 1));
  }
  return config;
}

}  // namespace

std::vector<Peer> parse_peers(std::string_view text, const std::string& file) {
  const Table table = parse_csv(text, file);
  const std::vector<std::string> columns = {"name",   "metric", "dtype",   "arch",
                                            "config", "value",  "program", "source"};
  ENGINE_CHECK(table.header == columns, ErrorKind::kUsage, file,
               ": expected the columns name, metric, dtype, arch, config, value, program, source");
  std::vector<Peer> peers;
  for (const auto& row : table.rows) {
    const std::string where = concat(file, ":", peers.size() + 2);
    const std::optional<double> value = number(row[5]);
    ENGINE_CHECK(value && *value > 0, ErrorKind::kUsage, where,
                 ": expected a number above 0 under value, found '", row[5], "'");
    peers.push_back({.name = row[0],
                     .metric = row[1],
                     .dtype = row[2],
                     .arch = row[3],
                     .config = parse_config(row[4], where),
                     .value = *value,
                     .program = row[6],
                     .source = row[7]});
  }
  return peers;
}

const std::vector<Peer>& built_in_peers() {
  static const std::vector<Peer> peers = parse_peers(kPeersCsv, "bench/peers/h200.csv");
  return peers;
}

std::vector<Peer> peers_of(const Result& result, std::span<const Peer> peers) {
  const bool lower = lower_is_better(result.metric);
  std::vector<Peer> found;
  for (const Peer& peer : peers) {
    if (belongs(result, peer)) found.push_back(peer);
  }
  std::stable_sort(found.begin(), found.end(), [&](const Peer& a, const Peer& b) {
    return lower ? a.value < b.value : a.value > b.value;
  });
  std::vector<Peer> best;
  for (const Peer& peer : found) {
    const bool known = std::any_of(best.begin(), best.end(),
                                   [&](const Peer& b) { return b.program == peer.program; });
    if (!known) best.push_back(peer);
  }
  return best;
}

}  // namespace engine::bench
