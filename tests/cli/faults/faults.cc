// A library to be preloaded: makes the system calls and allocations of a program fail.
//
// The environment says what fails. Reads are those of files under ENGINE_FAULT_DIR by pread; other
// files are read as they are.
//   ENGINE_FAULT_READ=eintr      every other read is interrupted
//   ENGINE_FAULT_READ=short      reads give one byte less than asked for, then a third of it
//   ENGINE_FAULT_READ=eio:N      from the Nth read on, all fail with EIO
//   ENGINE_FAULT_READ=once:N     the Nth read alone fails with EIO
//   ENGINE_FAULT_READ=slow:N     every read takes N milliseconds longer
//   ENGINE_FAULT_READ=cut:N:B    before the Nth read its file is truncated to B bytes
//   ENGINE_FAULT_ALLOC=N:B       the Nth allocation of B bytes or more gives null, once
//   ENGINE_FAULT_ALLOC=N:B:all   and all such allocations after it
// Allocations count from main on: nobody could catch what static initialisers of libraries throw.
//   ENGINE_FAULT_REPORT=FILE     a byte is appended for each fault that was brought about
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

// glibc's own entries behind malloc and its kin, which can be called before anything is set up.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
}

namespace {

struct ReadFault {
  enum Kind { kNone, kInterrupt, kShort, kFail, kFailOnce, kSlow, kCut } kind = kNone;
  long at = 0;
  long bytes = 0;
};

struct AllocationFault {
  long at = 0;  // 0: none
  std::size_t least = 0;
  bool all = false;
};

std::atomic<long> reads{0}, allocations{0};
std::atomic<bool> in_main{false};

// Nothing here may allocate: it runs inside malloc.
const char* after(const char* text, const char* prefix) {
  const std::size_t size = std::strlen(prefix);
  return std::strncmp(text, prefix, size) == 0 ? text + size : nullptr;
}

long number(const char* text) { return text == nullptr ? 0 : std::strtol(text, nullptr, 10); }

ReadFault read_fault() {
  const char* text = std::getenv("ENGINE_FAULT_READ");
  if (text == nullptr) return {};
  if (std::strcmp(text, "eintr") == 0) return {ReadFault::kInterrupt, 0, 0};
  if (std::strcmp(text, "short") == 0) return {ReadFault::kShort, 0, 0};
  if (const char* at = after(text, "eio:")) return {ReadFault::kFail, number(at), 0};
  if (const char* at = after(text, "once:")) return {ReadFault::kFailOnce, number(at), 0};
  if (const char* at = after(text, "slow:")) return {ReadFault::kSlow, number(at), 0};
  if (const char* at = after(text, "cut:")) {
    const char* colon = std::strchr(at, ':');
    return {ReadFault::kCut, number(at), colon == nullptr ? 0 : number(colon + 1)};
  }
  return {};
}

AllocationFault allocation_fault() {
  const char* text = std::getenv("ENGINE_FAULT_ALLOC");
  if (text == nullptr) return {};
  const char* colon = std::strchr(text, ':');
  const char* second = colon == nullptr ? nullptr : std::strchr(colon + 1, ':');
  return {number(text), colon == nullptr ? 0 : static_cast<std::size_t>(number(colon + 1)),
          second != nullptr};
}

void report() {
  const char* path = std::getenv("ENGINE_FAULT_REPORT");
  if (path == nullptr) return;
  const int file = ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return;
  if (::write(file, "!", 1) != 1) std::abort();
  ::close(file);
}

bool allocation_fails(std::size_t bytes) {
  static const AllocationFault fault = allocation_fault();
  if (fault.at == 0 || bytes < fault.least || !in_main) return false;
  const long count = ++allocations;
  const bool fails = count == fault.at || (fault.all && count > fault.at);
  if (fails) {
    if (count == fault.at) report();
    errno = ENOMEM;
  }
  return fails;
}

// The path of an open file, when it lies in the directory of the test.
bool is_watched(int descriptor, char* path, std::size_t size) {
  const char* directory = std::getenv("ENGINE_FAULT_DIR");
  if (directory == nullptr) return false;
  char link[64];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
  const ssize_t length = ::readlink(link, path, size - 1);
  if (length < 0) return false;
  path[length] = '\0';
  return after(path, directory) != nullptr;
}

using Pread = ssize_t (*)(int, void*, std::size_t, off_t);

ssize_t faulty_read(int descriptor, void* to, std::size_t bytes, off_t offset) {
  static const auto real = reinterpret_cast<Pread>(::dlsym(RTLD_NEXT, "pread"));
  static const ReadFault fault = read_fault();
  char path[4096];
  if (fault.kind == ReadFault::kNone || !is_watched(descriptor, path, sizeof(path))) {
    return real(descriptor, to, bytes, offset);
  }
  const long count = ++reads;
  switch (fault.kind) {
    case ReadFault::kInterrupt:
      if (count % 2 == 0) break;
      report();
      errno = EINTR;
      return -1;
    case ReadFault::kShort:
      report();
      bytes = count % 2 == 0 ? std::max<std::size_t>(bytes / 3, 1)
                             : std::max<std::size_t>(bytes, 2) - 1;
      break;
    case ReadFault::kFail:
    case ReadFault::kFailOnce:
      if (count < fault.at || (fault.kind == ReadFault::kFailOnce && count > fault.at)) break;
      report();
      errno = EIO;
      return -1;
    case ReadFault::kSlow: {
      const timespec time = {.tv_sec = 0, .tv_nsec = fault.at * 1'000'000};
      ::nanosleep(&time, nullptr);
      break;
    }
    case ReadFault::kCut:
      if (count == fault.at && ::truncate(path, fault.bytes) == 0) report();
      break;
    case ReadFault::kNone:
      break;
  }
  return real(descriptor, to, bytes, offset);
}

using Main = int (*)(int, char**, char**);
Main program_main = nullptr;

int watched_main(int argc, char** argv, char** environment) {
  in_main = true;
  const int code = program_main(argc, argv, environment);
  in_main = false;
  return code;
}

}  // namespace

extern "C" {

// What the program's first instructions call, with its main.
int __libc_start_main(Main entry, int argc, char** argv, void (*init)(), void (*fini)(),
                      void (*rtld_fini)(), void* stack_end) {
  using Start = int (*)(Main, int, char**, void (*)(), void (*)(), void (*)(), void*);
  const auto real = reinterpret_cast<Start>(::dlsym(RTLD_NEXT, "__libc_start_main"));
  program_main = entry;
  return real(watched_main, argc, argv, init, fini, rtld_fini, stack_end);
}

ssize_t pread(int descriptor, void* to, std::size_t bytes, off_t offset) {
  return faulty_read(descriptor, to, bytes, offset);
}
ssize_t pread64(int descriptor, void* to, std::size_t bytes, off_t offset) {
  return faulty_read(descriptor, to, bytes, offset);
}

void* malloc(std::size_t bytes) { return allocation_fails(bytes) ? nullptr : __libc_malloc(bytes); }
void* calloc(std::size_t count, std::size_t bytes) {
  return allocation_fails(count * bytes) ? nullptr : __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) {
  return allocation_fails(bytes) ? nullptr : __libc_realloc(memory, bytes);
}
void* memalign(std::size_t alignment, std::size_t bytes) {
  return allocation_fails(bytes) ? nullptr : __libc_memalign(alignment, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  return allocation_fails(bytes) ? nullptr : __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  *memory = allocation_fails(bytes) ? nullptr : __libc_memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}

}  // extern "C"
