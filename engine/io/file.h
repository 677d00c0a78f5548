// A read-only file, read by position.
//
// Checkpoint files are read with pread and never mapped: a file that shrinks while it is loaded
// must give an error, and a mapping would give SIGBUS. A File owns its descriptor, is move-only,
// and every const method may be called from many threads at once.
//
// Errors: a path that is missing, unreadable, a directory or not a regular file is
// Error{kModel}, as is a read past the end of the file; anything else the system reports
// (EIO, too many open files) is Error{kIo}. Each message names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace engine {

class File {
 public:
  explicit File(const std::filesystem::path& path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Size in bytes when the file was opened.
  std::uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Reads exactly `bytes` bytes at `offset` into `destination`. Interrupted and partial reads are
  // continued. The end of the file before the last byte is Error{kModel} with the expected and
  // found byte counts; `destination` may then be partly written.
  void read(std::uint64_t offset, std::size_t bytes, void* destination) const;

  // Tells the system that this range will be read soon, in order. Advice only; never fails.
  void will_need(std::uint64_t offset, std::uint64_t bytes) const noexcept;

 private:
  std::string path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// The whole content of a file. Error{kModel} when it is larger than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes);

}  // namespace engine
