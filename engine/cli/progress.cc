#include "engine/cli/progress.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "engine/cli/output.h"

namespace engine {

ProgressBar::ProgressBar(const char* label, std::size_t total)
    : label_(label),
      total_(total),
      visible_(stderr_is_terminal()),
      start_(std::chrono::steady_clock::now()) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::update(std::size_t done) {
  if (!visible_) return;
  constexpr int kWidth = 30;
  const double share =
      total_ == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  const double rate =
      elapsed.count() > 0 ? static_cast<double>(done) * 1e-9 / elapsed.count() : 0.0;
  const int filled = static_cast<int>(share * kWidth);
  std::string bar(static_cast<std::size_t>(filled), '#');
  bar.resize(kWidth, '.');
  std::fprintf(stderr, "\r%s [%s] %3.0f %%  %.1f of %.1f GB  %.1f GB/s\x1b[K", label_, bar.c_str(),
               100 * share, static_cast<double>(done) * 1e-9, static_cast<double>(total_) * 1e-9,
               rate);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace engine
