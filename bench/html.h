// Text for HTML and SVG, and numbers for people. Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace engine::bench {

// `text` as it can stand between tags or in a quoted attribute of HTML or XML: & < > " ' become
// references, bytes that are no UTF-8 and characters that a page can't hold U+FFFD.
std::string escape(std::string_view text);

// At least three significant figures where there are any: "4540", "97.3", "1.25", "0.0042"; a value
// of 1000 or more is whole.
std::string figure(double value);

// "4540 GB/s"; the figure alone where the unit is empty.
std::string with_unit(double value, const std::string& unit);

// `digits` behind the point, for coordinates and widths: "12.50".
std::string fixed(double value, int digits = 2);

}  // namespace engine::bench
