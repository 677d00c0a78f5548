// The experiments by name.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/options.h"
#include "bench/run_context.h"
#include "bench/table.h"

namespace engine::bench {

struct Experiment {
  std::string name;
  std::string summary;
  std::string targets;  // for people; empty: none
  std::function<std::vector<Result>(const RunContext&, const BenchFlags&)> run;
};

// Every experiment that this program has.
const std::vector<Experiment>& experiments();

// An experiment as it is to be run.
struct Order {
  const Experiment* experiment;
  BenchFlags flags;
};

// What `flags` asks for, in order; "all" stands for everything that needs nothing but a device.
// Throws Error{kUsage} for a name that nobody knows, with those that are known.
std::vector<Order> plan_run(const BenchFlags& flags);

// The table of --list.
Table experiment_list();

}  // namespace engine::bench
