// A progress bar on stderr, where that is a terminal.
#pragma once

#include <chrono>
#include <cstddef>

namespace engine {

class ProgressBar {
 public:
  // `total` bytes of work under `label`, a string literal.
  ProgressBar(const char* label, std::size_t total);
  // Erases the bar.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(std::size_t done);

 private:
  const char* label_;
  std::size_t total_;
  bool visible_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace engine
