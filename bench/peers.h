// What other programs reach on the problems of the experiments: bench/peers/*.csv, compiled in.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/result.h"

namespace engine::bench {

// A figure of another program. It belongs to results of the same name, metric, dtype and arch whose
// columns have the values in `config`.
struct Peer {
  std::string name, metric, dtype, arch;
  std::vector<std::pair<std::string, std::string>> config;  // column and value: "size", "1024"
  double value = 0;                                         // in the metric's unit
  std::string program;                                      // "cuDNN"
  std::string source;                                       // who measured it, when and how
};

// The peers of a CSV with the columns name, metric, dtype, arch, config ("size=1024 timing=cold"),
// value, program and source. `file` names it in messages. Throws Error{kUsage}.
std::vector<Peer> parse_peers(std::string_view text, const std::string& file);

// Those that this program was built with.
const std::vector<Peer>& built_in_peers();

// The peers that belong to `result`: of each program its best figure, the best program first.
std::vector<Peer> peers_of(const Result& result, std::span<const Peer> peers);

}  // namespace engine::bench
