#include "engine/cli/signals.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <ctime>

namespace engine {
namespace {

constexpr std::chrono::milliseconds kGrace{600};
constexpr long kPollNanoseconds = 50'000'000;

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

SignalWatcher::SignalWatcher() {
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { watch(); });
}

SignalWatcher::~SignalWatcher() {
  finished_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);  // ends its wait
  thread_.join();
}

int SignalWatcher::exit_code() const {
  const int signal = signal_.load();
  return signal == 0 ? 0 : 128 + signal;
}

void SignalWatcher::watch() {
  using Clock = std::chrono::steady_clock;
  const sigset_t set = watched_signals();
  const timespec poll = {.tv_sec = 0, .tv_nsec = kPollNanoseconds};
  Clock::time_point deadline = Clock::time_point::max();
  while (!finished_) {
    const int signal = sigtimedwait(&set, nullptr, &poll);
    if (finished_) return;
    if (signal > 0 && signal_ != 0) _exit(exit_code());
    if (signal > 0) {
      signal_ = signal;
      interrupt_ = true;
      deadline = Clock::now() + kGrace;
    }
    if (Clock::now() > deadline) _exit(exit_code());
  }
}

}  // namespace engine
