#include "engine/cli/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/core/check.h"

namespace engine {
namespace {

// Returns 0 or the error number.
int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

}  // namespace

void reserve_standard_streams() {
  while (true) {
    const int descriptor = ::open("/dev/null", O_PATH | O_CLOEXEC);  // the lowest that is free
    if (descriptor > STDERR_FILENO) ::close(descriptor);
    if (descriptor < 0 || descriptor > STDERR_FILENO) return;
  }
}

void write_stdout(std::string_view text) {
  const int error = write_all(STDOUT_FILENO, text);
  if (error == EPIPE || error == EBADF) throw BrokenPipe{};
  ENGINE_CHECK(error == 0, ErrorKind::kIo, "standard output: cannot write: ", std::strerror(error));
}

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

void print_error(std::string_view message) {
  const char* no_color = std::getenv("NO_COLOR");
  const bool color = stderr_is_terminal() && (no_color == nullptr || *no_color == '\0');
  // In pieces that need no allocation: the error may be that there is no memory.
  std::array<char, 1024> piece{};
  std::size_t size = 0;
  const auto flush = [&] {
    // Nothing can be done about a closed stderr.
    static_cast<void>(write_all(STDERR_FILENO, {piece.data(), size}));
    size = 0;
  };
  const auto put = [&](char c) {
    if (size == piece.size()) flush();
    piece[size++] = c;
  };
  for (const char c : std::string_view(color ? "\x1b[31merror:\x1b[0m " : "error: ")) put(c);
  // An error is one line, whatever a file name or a library put into the message.
  for (const char c : message) put(c == '\n' || c == '\r' ? ' ' : c);
  put('\n');
  flush();
}

void print_note(std::string_view message) {
  static_cast<void>(write_all(STDERR_FILENO, std::string(message) + "\n"));
}

}  // namespace engine
