// The page and the picture of a run, as files.
#pragma once

#include <filesystem>
#include <span>

#include "bench/html_report.h"

namespace engine::bench {

// FILE.html, FILE.svg or both; each replaces what stood there, whole or not at all. Used by one
// thread.
class ReportFile {
 public:
  // An empty path: no such file. Makes parent folders where they are missing and tries whether the
  // files can be written, so that what could fail fails before the benchmarks run. Throws
  // Error{kUsage} where a name doesn't end in .html or .svg, and Error{kIo}.
  ReportFile(std::filesystem::path page, std::filesystem::path picture);

  // Throws Error{kIo}; then neither file has changed, or the page alone where the picture's name
  // could not be given.
  void write(const RunFacts& facts, std::span<const Section> sections,
             std::span<const Peer> peers) const;

 private:
  std::filesystem::path page_, picture_;
};

}  // namespace engine::bench
