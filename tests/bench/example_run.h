// Results of an experiment on a made-up card, for tests of reports.
#pragma once

#include <string>
#include <vector>

#include "bench/bars.h"

namespace engine::bench {

inline Result example_row(const std::string& name, const std::string& metric, double actual) {
  Result result;
  result.name = name;
  result.metric = metric;
  result.actual = actual;
  result.values = {actual};
  result.dtype = "bfloat16";
  result.device = "cuda";
  result.arch = "a card";
  return result;
}

// One size at 1000 GB/s, and a mean of 3000 with a target of 1000, each below a ceiling of 4000.
inline Section example_gemv() {
  Result size = example_row("gemv", "memory_bandwidth_1024(GB/s)", 1000);
  size.ceiling = 4000;
  size.work = {.flops = 4e9, .bytes = 2e9, .seconds = 2e-3};
  Result all = example_row("gemv", "memory_bandwidth(GB/s)", 3000);
  all.ceiling = 4000;
  all.target = 1000;
  all.headline = true;
  all.columns = {{"size", std::string("mean")}};
  return {"gemv", "a vector by a matrix", {size, all}};
}

// Another program that reaches 5000 in the mean.
inline std::vector<Peer> example_peers() {
  return {{.name = "gemv",
           .metric = "memory_bandwidth(GB/s)",
           .dtype = "bfloat16",
           .arch = "a card",
           .config = {{"size", "mean"}},
           .value = 5000,
           .program = "fastest",
           .source = "a measurement"}};
}

}  // namespace engine::bench
