#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace engine::test {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void fail_system(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

// An owned descriptor.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  void close() {
    if (value_ >= 0) ::close(std::exchange(value_, -1));
  }
  int get() const { return value_; }
  bool open() const { return value_ >= 0; }

 private:
  int value_;
};

struct Pipe {
  Descriptor reader, writer;
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail_system("pipe");
    reader = Descriptor(ends[0]);
    writer = Descriptor(ends[1]);
  }
};

// What the child needs between fork and exec, made before the fork: nothing is allocated there.
struct Image {
  std::vector<std::string> words;
  std::vector<char*> arguments, environment;

  explicit Image(const Command& command) {
    words.push_back(command.program.string());
    words.insert(words.end(), command.arguments.begin(), command.arguments.end());
    const std::size_t count = words.size();
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string text = *entry;
      const bool replaced =
          std::any_of(command.environment.begin(), command.environment.end(),
                      [&](const auto& variable) { return text.starts_with(variable.first + "="); });
      if (!replaced) words.push_back(text);
    }
    for (const auto& [name, value] : command.environment) words.push_back(name + "=" + value);
    for (std::size_t i = 0; i < words.size(); ++i) {
      (i < count ? arguments : environment).push_back(words[i].data());
    }
    arguments.push_back(nullptr);
    environment.push_back(nullptr);
  }
};

void limit(__rlimit_resource_t resource, const std::optional<std::uint64_t>& bytes) {
  if (!bytes) return;
  const rlimit value = {.rlim_cur = *bytes, .rlim_max = *bytes};
  ::setrlimit(resource, &value);
}

// In the child: never returns.
[[noreturn]] void become(const Command& command, const Image& image, int in, int out, int err) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  if (command.file_size) ::signal(SIGXFSZ, SIG_IGN);
  if (command.standard_input == Stdin::kClosed) {
    ::close(STDIN_FILENO);
  } else {
    ::dup2(in, STDIN_FILENO);
  }
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  if (!command.directory.empty() && ::chdir(command.directory.c_str()) != 0) ::_exit(126);
  limit(RLIMIT_AS, command.address_space);
  limit(RLIMIT_FSIZE, command.file_size);
  ::execve(image.arguments[0], image.arguments.data(), image.environment.data());
  ::_exit(127);
}

// Whether the process blocks `signal`, as Linux tells it.
bool blocks(pid_t process, int signal) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  std::string line;
  while (std::getline(status, line)) {
    if (!line.starts_with("SigBlk:")) continue;
    return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

// The parent's side of one run.
class Watch {
 public:
  Watch(const Command& command, pid_t process, Descriptor in, Descriptor out, Descriptor err)
      : command_(command),
        process_(process),
        in_(std::move(in)),
        out_(std::move(out)),
        err_(std::move(err)) {
    if (command.close_output_after == std::size_t{0}) out_.close();
    if (in_.open()) ::fcntl(in_.get(), F_SETFL, O_NONBLOCK);
    if (command.standard_input == Stdin::kPipe && command.input.empty()) in_.close();
  }

  Result finish() {
    int status = 0;
    while (true) {
      exchange();
      send_signal();
      const pid_t ended = ::waitpid(process_, &status, WNOHANG);
      if (ended == process_) break;
      if (ended < 0 && errno != EINTR) fail_system("waitpid");
      if (!result_.timed_out && seconds_since(start_) > command_.timeout_s) {
        result_.timed_out = true;
        ::kill(process_, SIGKILL);
      }
    }
    result_.wall_s = seconds_since(start_);
    if (result_.signalled) result_.after_signal_s = seconds_since(signalled_);
    while (exchange()) {  // what is still in the pipes
    }
    if (WIFEXITED(status)) result_.exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result_.signal = WTERMSIG(status);
    return std::move(result_);
  }

 private:
  // Moves bytes for a few milliseconds at most; false when there were none.
  bool exchange() {
    constexpr int kPollMilliseconds = 2;
    std::array<pollfd, 3> all = {{{out_.get(), POLLIN, 0}, {err_.get(), POLLIN, 0}, {-1, 0, 0}}};
    if (written_ < command_.input.size()) all[2] = {in_.get(), POLLOUT, 0};
    if (::poll(all.data(), all.size(), kPollMilliseconds) <= 0) return false;
    bool moved = false;
    if (all[0].revents != 0) moved = read_some(out_, result_.out) || moved;
    if (all[1].revents != 0) moved = read_some(err_, result_.err) || moved;
    if (all[2].revents != 0) write_some();
    if (command_.close_output_after && result_.out.size() >= *command_.close_output_after) {
      out_.close();
    }
    return moved;
  }

  bool read_some(Descriptor& from, std::string& to) {
    std::array<char, 1 << 16> block{};
    std::size_t most = block.size();
    if (&from == &out_ && command_.close_output_after) {
      most = std::min(most, *command_.close_output_after - result_.out.size());
    }
    const ssize_t count = ::read(from.get(), block.data(), most);
    if (count > 0) {
      to.append(block.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      from.close();
    }
    return count > 0;
  }

  void write_some() {
    const std::string& input = command_.input;
    const ssize_t count = ::write(in_.get(), input.data() + written_, input.size() - written_);
    if (count > 0) written_ += static_cast<std::size_t>(count);
    const bool failed = count < 0 && errno != EINTR && errno != EAGAIN;
    if (failed) written_ = input.size();  // the program doesn't read it
    if (written_ == input.size()) in_.close();
  }

  void send_signal() {
    if (command_.signal == 0 || result_.signalled) return;
    if (!ready_) {
      if (result_.out.size() < command_.signal_after_out) return;
      if (!command_.signal_after_err.empty() && !result_.says(command_.signal_after_err)) return;
      if (!blocks(process_, command_.signal)) return;
      ready_ = Clock::now();
    }
    if (seconds_since(*ready_) < command_.signal_delay_s) return;
    result_.signalled = ::kill(process_, command_.signal) == 0;
    signalled_ = Clock::now();
  }

  const Command& command_;
  pid_t process_;
  Descriptor in_, out_, err_;
  Clock::time_point start_ = Clock::now(), signalled_;
  std::optional<Clock::time_point> ready_;
  std::size_t written_ = 0;
  Result result_;
};

}  // namespace

int Result::error_lines() const {
  int count = 0;
  std::istringstream lines(err);
  for (std::string line; std::getline(lines, line);) count += line.starts_with("error:") ? 1 : 0;
  return count;
}

std::string Result::describe() const {
  constexpr std::size_t kMost = 2000;
  std::ostringstream text;
  text << "exit code " << exit_code << ", signal " << signal << (timed_out ? ", timed out" : "")
       << ", " << wall_s << " s\nstdout: " << out.substr(0, kMost)
       << "\nstderr: " << err.substr(0, kMost);
  return text.str();
}

Result run(const Command& command) {
  ::signal(SIGPIPE, SIG_IGN);
  Image image(command);
  Pipe in, out, err;
  Descriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Descriptor file;
  if (!command.output_file.empty()) {
    file = Descriptor(
        ::open(command.output_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file.open()) fail_system(command.output_file.c_str());
  }
  const bool piped =
      command.standard_input == Stdin::kPipe || command.standard_input == Stdin::kOpen;
  const pid_t process = ::fork();
  if (process < 0) fail_system("fork");
  if (process == 0) {
    become(command, image, piped ? in.reader.get() : null.get(),
           file.open() ? file.get() : out.writer.get(), err.writer.get());
  }
  in.reader.close();
  out.writer.close();
  err.writer.close();
  if (!piped) in.writer.close();
  return Watch(command, process, std::move(in.writer), std::move(out.reader), std::move(err.reader))
      .finish();
}

}  // namespace engine::test
