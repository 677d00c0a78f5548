#include "bench/pending_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "kernels/core/check.h"

namespace engine::bench {

namespace fs = std::filesystem;

PendingFile::PendingFile(fs::path path, std::string_view text)
    : path_(std::move(path)),
      temporary_(path_.string() + ".partial." + std::to_string(::getpid())) {
  const int file = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) fail_write(errno);
  int error = 0;
  while (!text.empty() && error == 0) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (error == 0 && ::fsync(file) != 0) error = errno;
  if (::close(file) != 0 && error == 0) error = errno;
  if (error != 0) {
    ::unlink(temporary_.c_str());
    fail_write(error);
  }
}

PendingFile::~PendingFile() {
  if (!committed_) ::unlink(temporary_.c_str());
}

void PendingFile::commit() {
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail_write(errno);
  committed_ = true;
}

void PendingFile::fail_write(int error) const {
  fail(ErrorKind::kIo, path_.string(), ": cannot be written: ", std::strerror(error));
}

void prepare_path(const char* flag, const fs::path& path) {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  ENGINE_CHECK(!error, ErrorKind::kIo, flag, ": ", path.parent_path().string(),
               ": cannot be made: ", error.message());
  const fs::file_status status = fs::status(path, error);
  ENGINE_CHECK(!fs::exists(status) || fs::is_regular_file(status), ErrorKind::kUsage, flag, ": ",
               path.string(), ": expected a file");
}

}  // namespace engine::bench
