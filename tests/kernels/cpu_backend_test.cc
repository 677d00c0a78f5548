// What is particular to the CPU backend: threads, limits of the process, promised memory, readers.
#include <doctest/doctest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/host_info.h"
#include "tests/support/outcome.h"

namespace engine::test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST_CASE("the default thread count follows the affinity of the thread that asks") {
  const int all = default_thread_count();
  CHECK(all >= 1);
  CHECK(all <= static_cast<int>(std::thread::hardware_concurrency()));
  int alone = 0;
  std::thread([&] {  // affinity belongs to a thread: the others keep theirs
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    if (sched_setaffinity(0, sizeof(set), &set) == 0) alone = default_thread_count();
  })
      .join();
  CHECK(alone == 1);
}

TEST_CASE("a number of threads out of range is a usage error") {
  for (const int threads : {-1, 100000}) {
    const Outcome outcome =
        outcome_of([&] { make_cpu_backend({.threads = threads, .interrupt = nullptr}); });
    CHECK(outcome.is(ErrorKind::kUsage));
    CHECK(outcome.says(std::to_string(threads)));
  }
}

TEST_CASE("host memory stays within the machine, and within a limit of address space") {
  const MemoryInfo before = cpu::host_memory();
  CHECK(before.free > 0);
  CHECK(before.free <= before.total);
  const std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 1, .interrupt = nullptr});
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;  // address space in use
  const std::size_t space = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_AS, &old) == 0);
  rlimit tight = old;
  tight.rlim_cur = space + 64 * kMiB;
  REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  const MemoryInfo limited = cpu::host_memory();
  const Outcome refused = outcome_of([&] { backend->allocate(256 * kMiB); });
  REQUIRE(setrlimit(RLIMIT_AS, &old) == 0);
  CHECK(limited.total == std::min(before.total, space + 64 * kMiB));
  CHECK(limited.free <= 64 * kMiB);
  CHECK(refused.is(ErrorKind::kMemory));
  CHECK(refused.says(std::to_string(256 * kMiB)));
  CHECK(backend->allocate(256 * kMiB).bytes() == 256 * kMiB);
}

TEST_CASE("memory handed out but not yet touched is no longer free") {
  const std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 1, .interrupt = nullptr});
  const std::size_t size = backend->memory().free / 4 * 3;
  const Buffer most = backend->allocate(size);
  const Outcome outcome = outcome_of([&] { backend->allocate(size); });
  CHECK(outcome.is(ErrorKind::kMemory));
  CHECK(backend->peak_bytes() >= size);
}

// 64 pieces of 4 MiB in f32, a millisecond each; the read number `failing` throws.
HostWeight failing_source(std::atomic<int>* calls, int failing) {
  return {"w", DType::kF32, 65536, 1024, [=](std::int64_t, std::int64_t, std::byte* destination) {
            if (calls->fetch_add(1) == failing) fail(ErrorKind::kIo, "call ", failing, " failed");
            *destination = std::byte{1};
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }};
}

TEST_CASE("whichever read fails, its error comes out of finish and no reader is left") {
  const std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 3, .interrupt = nullptr});
  for (const DType stored : {DType::kF32, DType::kBF16}) {
    for (const int failing : {0, 3, 7}) {
      std::atomic<int> calls{0};
      const std::unique_ptr<Uploader> uploader = backend->uploader();
      uploader->add({failing_source(&calls, failing)}, plain_format(stored));
      const Outcome outcome = outcome_of([&] { uploader->finish({}); });
      CHECK(outcome.is(ErrorKind::kIo));
      CHECK(outcome.says(concat("call ", failing, " failed")));
      const int stopped = calls.load();
      CHECK(stopped < 40);  // the other readers stop at their next piece
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      CHECK(calls.load() == stopped);
    }
  }
}

TEST_CASE("what progress throws abandons the load once its readers have ended") {
  const std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 2, .interrupt = nullptr});
  std::atomic<int> calls{0}, inside{0};
  const HostWeight slow = {"w", DType::kF32, 65536, 1024,
                           [&](std::int64_t, std::int64_t count, std::byte* destination) {
                             ++inside;
                             ++calls;
                             std::memset(destination, 0, static_cast<std::size_t>(count) * 4096);
                             std::this_thread::sleep_for(std::chrono::milliseconds(20));
                             --inside;
                           }};
  const std::unique_ptr<Uploader> uploader = backend->uploader();
  uploader->add({slow}, QuantFormat::kF32);
  CHECK_THROWS_AS(uploader->finish([](std::size_t) { throw std::runtime_error("enough"); }),
                  std::runtime_error);
  CHECK(inside == 0);
  CHECK(calls < 64);  // of 64 pieces of 4 MiB
}

TEST_CASE("reading spreads over several threads, progress stays on the caller's") {
  const std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 2, .interrupt = nullptr});
  std::mutex mutex;
  std::set<std::thread::id> readers, reporters;
  const HostWeight source = {"w", DType::kBF16, 4096, 16384,
                             [&](std::int64_t, std::int64_t count, std::byte* destination) {
                               std::memset(destination, 0, static_cast<std::size_t>(count) * 32768);
                               std::this_thread::sleep_for(std::chrono::milliseconds(10));
                               const std::lock_guard lock(mutex);
                               readers.insert(std::this_thread::get_id());
                             }};
  const std::unique_ptr<Uploader> uploader = backend->uploader();
  uploader->add({source}, QuantFormat::kBF16);
  std::size_t last = 0;
  uploader->finish([&](std::size_t bytes) {
    CHECK(bytes >= last);
    last = bytes;
    reporters.insert(std::this_thread::get_id());
  });
  CHECK(readers.size() == 2);
  CHECK(readers.count(std::this_thread::get_id()) == 0);
  CHECK(reporters == std::set{std::this_thread::get_id()});
  CHECK(last == std::size_t{4096} * 16384 * 2);
}

}  // namespace
}  // namespace engine::test
