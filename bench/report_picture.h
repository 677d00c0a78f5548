// A report as one SVG that stands alone: headlines as bars, and the roofline. Pure functions.
#pragma once

#include <span>
#include <string>

#include "bench/bars.h"
#include "bench/roofline.h"

namespace engine::bench {

// The bars of headlines(), the roofline below them, and `subtitle`; either part is left out where
// there is nothing to draw. Light and dark as the reader's system has it.
std::string report_picture(const std::string& title, const std::string& subtitle, const Roof& roof,
                           std::span<const Section> sections, std::span<const Peer> peers);

}  // namespace engine::bench
