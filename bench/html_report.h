// A run as one HTML page that needs nothing else: no script, font, style or image from anywhere.
// Pure functions; the page is also well-formed XML.
#pragma once

#include <span>
#include <string>

#include "bench/bars.h"
#include "bench/roofline.h"

namespace engine::bench {

// What a run was made with. Texts are any bytes; empty ones are left out.
struct RunFacts {
  std::string command;   // as typed
  std::string hardware;  // the card or the processor
  std::string backend;   // "CUDA, 132 multiprocessors, …"
  std::string driver;    // "driver 580.159, CUDA 13.0"
  std::string build;     // version and type
  std::string commit;
  std::string date;     // when it began, UTC
  std::string warning;  // what makes the figures worth less; stands on top
  Roof roof;            // zeros: not measured
};

// What a page or a picture of the run is called.
std::string report_title(const RunFacts& facts);

// The page: facts, headlines, the roofline, then for each section its bars and the table of all
// results. Bars show a result, its target, its peers and its ceiling as far as there are any.
std::string html_report(const RunFacts& facts, std::span<const Section> sections,
                        std::span<const Peer> peers);

}  // namespace engine::bench
