// What the bars of a report show: results with what they are set against, on common scales. Pure
// functions; html_report.h and report_picture.h draw them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/peers.h"
#include "bench/result.h"

namespace engine::bench {

// The results of one experiment.
struct Section {
  std::string experiment;  // its name on the command line
  std::string summary;
  std::vector<Result> results;
};

// One bar. Its figures are in its unit; 0: there is none.
struct Bar {
  std::string label;
  std::string unit;  // "GB/s"; empty: a ratio
  double actual = 0, target = 0, ceiling = 0;
  std::vector<Peer> peers;
  bool headline = false;
};

// Bars that may be compared: lengths are shares of `scale`, the largest of all figures.
struct BarGroup {
  std::string title;  // what the bars have in common
  bool lower_is_better = false;
  bool of_ceiling = false;  // lengths are shares of each bar's own ceiling, and `scale` is a share
  double scale = 0;
  std::vector<Bar> bars;
};

// The results of a section as bars. Rates of one unit share a scale; times share one only where
// the problem is the same. A ratio that nothing is set against has no bar.
std::vector<BarGroup> bar_groups(const Section& section, std::span<const Peer> peers);

// The headlines of all sections that have a ceiling, as shares of their ceilings.
BarGroup headlines(std::span<const Section> sections, std::span<const Peer> peers);

// Percent of the scale, from 0 to 100, that a figure of `bar` takes.
double length_percent(const BarGroup& group, const Bar& bar, double value);

// How many times better `actual` is than `other`.
double times_better(const BarGroup& group, double actual, double other);

}  // namespace engine::bench
