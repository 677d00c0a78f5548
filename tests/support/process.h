// Runs a program and watches it from outside: what it wrote, how it ended, how long it took.
//
// For single-threaded tests: run() forks, ignores SIGPIPE in this process, and returns when the
// program has ended. A program that outlives its time limit is killed and reported as timed_out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace engine::test {

// What the program's standard input is.
enum class Stdin {
  kNull,    // /dev/null
  kPipe,    // a pipe with Command::input in it, then closed
  kOpen,    // a pipe that nothing is written to, open until the program ends
  kClosed,  // no descriptor 0 at all
};

struct Command {
  std::filesystem::path program;
  std::vector<std::string> arguments;

  Stdin standard_input = Stdin::kNull;
  std::string input;
  std::vector<std::pair<std::string, std::string>> environment;  // added to this process's own
  std::filesystem::path directory;                               // to run in; empty: this one
  std::filesystem::path output_file;              // stdout goes there instead of into Result::out
  std::optional<std::size_t> close_output_after;  // bytes of stdout, then its read end is closed
  std::optional<std::uint64_t> address_space;     // RLIMIT_AS, bytes
  std::optional<std::uint64_t> file_size;         // RLIMIT_FSIZE, bytes; SIGXFSZ is ignored

  // A signal, sent `signal_delay_s` after all that is asked for here has happened: the program
  // blocks the signal (that is, it got as far as handling it), and has written this much.
  int signal = 0;
  double signal_delay_s = 0;
  std::size_t signal_after_out = 0;  // bytes of stdout
  std::string signal_after_err;      // a text on stderr

  double timeout_s = 60;
};

struct Result {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;      // that ended it
  bool timed_out = false;
  bool signalled = false;  // Command::signal was sent
  std::string out, err;
  double wall_s = 0;
  double after_signal_s = 0;  // from sending Command::signal to the end

  bool says(const std::string& text) const { return err.find(text) != std::string::npos; }
  // Lines of stderr that report an error.
  int error_lines() const;
  // Everything about it, for a failing check.
  std::string describe() const;
};

Result run(const Command& command);

}  // namespace engine::test
