// The style sheet of html_report.h's page.
#pragma once

#include <string_view>

namespace engine::bench {

// CSS, light and dark as the reader's system has it, from a phone's width up.
std::string_view page_style();

}  // namespace engine::bench
