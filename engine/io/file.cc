#include "engine/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/core/check.h"

namespace engine {
namespace {

// One pread never returns more than this on Linux.
constexpr std::size_t kMaxRead = 0x7ffff000;

// Whether the system's answer means that the named file is wrong, not that the machine failed.
bool is_path_error(int code) {
  switch (code) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case EPERM:
    case ELOOP:
    case ENAMETOOLONG:
    case ENXIO:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void fail_system(const std::string& path, const char* action, int code) {
  fail(is_path_error(code) ? ErrorKind::kModel : ErrorKind::kIo, path, ": cannot ", action, ": ",
       std::strerror(code));
}

}  // namespace

File::File(const std::filesystem::path& path) : path_(path.string()) {
  do {
    // O_NONBLOCK keeps the open of a named pipe from waiting for a writer; it has no effect on the
    // regular files that pass the check below.
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) {
    fail_system(path_, "open", errno);
  }
  struct stat status = {};
  const int code = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (code != 0 || !S_ISREG(status.st_mode)) {
    ::close(std::exchange(descriptor_, -1));
    if (code != 0) {
      fail_system(path_, "get the size", code);
    }
    fail(ErrorKind::kModel, path_, ": expected a regular file, found ",
         S_ISDIR(status.st_mode) ? "a directory" : "a special file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

File::~File() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

void File::read(std::uint64_t offset, std::size_t bytes, void* destination) const {
  constexpr auto kMaxOffset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  ENGINE_CHECK(offset <= kMaxOffset && bytes <= kMaxOffset - offset, ErrorKind::kModel, path_,
               ": a read of ", bytes, " bytes at offset ", offset, " is past any file's end");
  auto* out = static_cast<char*>(destination);
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t count = ::pread(descriptor_, out + done, std::min(bytes - done, kMaxRead),
                                  static_cast<off_t>(offset + done));
    if (count > 0) {
      done += static_cast<std::size_t>(count);
    } else if (count == 0) {
      fail(ErrorKind::kModel, path_, ": expected ", bytes, " bytes at offset ", offset, ", found ",
           done, " before the end of the file, which had ", size_, " bytes when it was opened");
    } else if (errno != EINTR) {
      fail_system(path_, "read", errno);
    }
  }
}

void File::will_need(std::uint64_t offset, std::uint64_t bytes) const noexcept {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  POSIX_FADV_WILLNEED);
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const File file(path);
  ENGINE_CHECK(file.size() <= max_bytes, ErrorKind::kModel, file.path(), ": expected at most ",
               max_bytes, " bytes, found ", file.size());
  std::string text(file.size(), '\0');
  file.read(0, text.size(), text.data());
  return text;
}

}  // namespace engine
