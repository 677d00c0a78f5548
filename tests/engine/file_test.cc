// Reading files by position, with pread replaced so that it can be made to fail.
#include "engine/io/file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/outcome.h"
#include "tests/support/temp_dir.h"

namespace {

// What the replaced pread does: from call `first` (counted from 0) on, for `count` calls, fail with
// `error`; every call gives at most `most` bytes.
struct Fault {
  int first = 0;
  int count = 0;
  int error = 0;
  std::size_t most = ~std::size_t{0};
};
Fault fault;
std::atomic<int> calls = 0;

}  // namespace

extern "C" ssize_t pread(int descriptor, void* buffer, size_t bytes, off_t offset) {
  const int call = calls++;
  if (call >= fault.first && call < fault.first + fault.count) {
    errno = fault.error;
    return -1;
  }
  return ::syscall(SYS_pread64, descriptor, buffer, bytes < fault.most ? bytes : fault.most,
                   offset);
}

namespace engine {
namespace {

using test::Outcome;
using test::outcome_of;
using test::TempDir;

// Sets the fault for one scope.
struct WithFault {
  explicit WithFault(Fault wanted) {
    fault = wanted;
    calls = 0;
  }
  ~WithFault() { fault = {}; }
};

std::string read_all(const File& file) {
  std::string content(file.size(), '?');
  file.read(0, content.size(), content.data());
  return content;
}

TEST_CASE("file: ranges come back as written, to the last byte and not past it") {
  const TempDir dir;
  const File file(dir.write("a", "0123456789"));
  CHECK(file.size() == 10);
  CHECK(read_all(file) == "0123456789");
  std::string part(3, '?');
  file.read(7, 3, part.data());
  CHECK(part == "789");
  file.read(10, 0, part.data());
  const Outcome past = outcome_of([&] { file.read(8, 3, part.data()); });
  CHECK(past.is(ErrorKind::kModel));
  CHECK(past.says("expected 3 bytes at offset 8, found 2"));
  CHECK(outcome_of([&] { file.read(~0ull - 1, 3, part.data()); }).is(ErrorKind::kModel));
}

TEST_CASE("file: a file that shrinks after it was opened gives an error, not a signal") {
  const TempDir dir;
  const auto path = dir.write("a", std::string(100'000, 'x'));
  const File file(path);
  std::filesystem::resize_file(path, 60'000);
  const Outcome outcome = outcome_of([&] { read_all(file); });
  CHECK(outcome.is(ErrorKind::kModel));
  CHECK(outcome.says("expected 100000 bytes at offset 0, found 60000"));
  CHECK(outcome.says(path.string()));
}

TEST_CASE("file: partial reads are continued") {
  const TempDir dir;
  const File file(dir.write("a", "0123456789"));
  const WithFault limited({.most = 3});
  CHECK(read_all(file) == "0123456789");
  CHECK(calls == 4);
}

TEST_CASE("file: an interrupted read is retried, wherever it happens") {
  const TempDir dir;
  const File file(dir.write("a", "0123456789"));
  for (int first = 0; first < 4; ++first) {
    const WithFault interrupted({.first = first, .count = 5, .error = EINTR, .most = 3});
    CHECK(read_all(file) == "0123456789");
    CHECK(calls == 9);
  }
}

TEST_CASE("file: a read error on the Nth call is kIo, naming file and reason") {
  const TempDir dir;
  const auto path = dir.write("a", "0123456789");
  const File file(path);
  for (int first = 0; first < 4; ++first) {
    for (const int count : {1, 1000}) {
      const WithFault broken({.first = first, .count = count, .error = EIO, .most = 3});
      const Outcome outcome = outcome_of([&] { read_all(file); });
      CHECK(outcome.is(ErrorKind::kIo));
      CHECK(outcome.says(path.string()));
      CHECK(outcome.says("Input/output error"));
      CHECK(calls == first + 1);
    }
  }
}

TEST_CASE("file: what is not a readable regular file is kModel, and a pipe does not block") {
  const TempDir dir;
  const auto fifo = dir.path() / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(outcome_of([&] { File{fifo}; }).says("expected a regular file, found a special file"));
  CHECK(outcome_of([&] { File{dir.path()}; }).says("found a directory"));
  CHECK(outcome_of([&] { File{dir.path() / "none"}; }).says("No such file"));
  CHECK(outcome_of([&] { File{dir.path() / "none" / "x"}; }).is(ErrorKind::kModel));
  std::filesystem::create_symlink("loop", dir.path() / "loop");
  CHECK(outcome_of([&] { File{dir.path() / "loop"}; }).is(ErrorKind::kModel));
  CHECK(outcome_of([&] { File{dir.path() / std::string(300, 'x')}; }).is(ErrorKind::kModel));
}

TEST_CASE("file: moving keeps the content and the source harmless") {
  const TempDir dir;
  File a(dir.write("a", "first"));
  File b(dir.write("b", "second"));
  File c(std::move(a));
  CHECK(read_all(c) == "first");
  c = std::move(b);
  CHECK(read_all(c) == "second");
}

TEST_CASE("file: many threads read one file at once") {
  const TempDir dir;
  std::string content(1 << 20, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) {
    content[i] = static_cast<char>(i * 2654435761u >> 13);
  }
  const File file(dir.write("a", content));
  file.will_need(0, file.size());
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::string part(1013, '\0');
      for (std::size_t at = t * 17; at + part.size() <= content.size(); at += 4099) {
        file.read(at, part.size(), part.data());
        wrong += part != content.substr(at, part.size());
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE("file: a text file larger than its bound is refused unread") {
  const TempDir dir;
  const auto path = dir.write("a", "0123456789");
  CHECK(read_text_file(path, 10) == "0123456789");
  CHECK(outcome_of([&] { read_text_file(path, 9); }).says("expected at most 9 bytes, found 10"));
}

}  // namespace
}  // namespace engine
