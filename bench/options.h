// The flags of engine_bench.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/report.h"
#include "kernels/core/dtype.h"

namespace engine::bench {

struct BenchFlags {
  std::vector<std::string> words;  // experiments, or "compare" and two files
  bool int8 = false;
  bool steady = false;
  DType dtype = DType::kBF16;
  std::optional<std::int64_t> layers;  // absent: the experiment's
  std::int64_t samples = 5;
  std::int64_t max_new_tokens = 200;
  std::int64_t prompt_len = 6;
  std::optional<std::vector<std::int64_t>> prefill, depth;  // absent: the device's default
  // Of sdp and score_mod; absent: the experiment's.
  std::optional<std::vector<std::int64_t>> batch, heads, seq, head_dim;
  std::optional<std::vector<double>> pad;  // shares of padding; 0: a dense batch
  std::vector<std::string> mods;           // names of score functions; empty: the experiment's
  bool backward = false;
  std::string model;  // directory; empty: synthetic weights
  std::string text;   // file
  std::string device = "auto";
  int threads = 0;
  std::uint64_t seed = 1234;
  OutputFormat format = OutputFormat::kTable;
  std::string output;   // FILE.csv; empty: none
  std::string report;   // FILE.html; empty: none
  std::string picture;  // FILE.svg; empty: none
  bool list = false;
  bool version = false;
};

// What the command line asks for; nothing after --help, which is printed on stdout. Throws
// Error{kUsage} naming the flag.
std::optional<BenchFlags> parse_bench_flags(int argc, const char* const* argv);

}  // namespace engine::bench
