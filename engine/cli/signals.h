// SIGINT and SIGTERM as a request to stop.
#pragma once

#include <atomic>
#include <thread>

namespace engine {

// Blocks both signals in this thread and those it starts (so it comes first in main) and watches
// for them. The first sets interrupt(); whoever polls it winds up and main returns exit_code().
// Where that takes longer than the grace period, or at a second signal, the process ends at once
// with the same code: text is written as it is made, so nothing is lost. Also ignores SIGPIPE.
class SignalWatcher {
 public:
  SignalWatcher();
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

  const std::atomic<bool>* interrupt() const { return &interrupt_; }
  // 130 after SIGINT, 143 after SIGTERM, 0 before either.
  int exit_code() const;

 private:
  void watch();

  std::atomic<bool> interrupt_{false};
  std::atomic<int> signal_{0};
  std::atomic<bool> finished_{false};
  std::thread thread_;
};

}  // namespace engine
