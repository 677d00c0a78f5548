// A file that is written whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace engine::bench {

// A file that exists under a passing name beside its own until commit() gives it that; one that is
// never committed leaves nothing behind.
class PendingFile {
 public:
  // Writes `text` to the passing name and to the disk. Throws Error{kIo} naming `path`.
  PendingFile(std::filesystem::path path, std::string_view text);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  // Replaces what stood under the file's name. Throws Error{kIo}.
  void commit();

 private:
  [[noreturn]] void fail_write(int error) const;

  std::filesystem::path path_;
  std::string temporary_;
  bool committed_ = false;
};

// Makes the parent folder of `path` where it is missing. Throws Error{kIo} naming `flag`, and
// Error{kUsage} where `path` itself is there and is no file.
void prepare_path(const char* flag, const std::filesystem::path& path);

}  // namespace engine::bench
