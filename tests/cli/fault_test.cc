// Reads and allocations that fail, files that shrink and an address space that ends: every run
// ends soon, with a code of the contract and never by a signal.
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;

// Whether the faults can be preloaded; says why where they can't.
bool can_preload() {
  if (kSanitized) MESSAGE("skipped: AddressSanitizer brings its own allocator and must come first");
  return !kSanitized;
}

// A run under faults.
class Faulty {
 public:
  Faulty(const RandomCheckpoint& checkpoint, const std::vector<std::string>& arguments)
      : report_(report_directory_.path() / "report"),
        command_(generate_command(checkpoint.path(), arguments)) {
    const fs::path library = program("libengine_faults.so");
    REQUIRE_MESSAGE(fs::exists(library), library.string());
    command_.environment = {{"LD_PRELOAD", library.string()},
                            {"ENGINE_FAULT_DIR", checkpoint.name()},
                            {"ENGINE_FAULT_REPORT", report_.string()}};
    command_.timeout_s = 20;
  }

  Result run_with(const std::string& variable, const std::string& value) {
    fs::remove(report_);
    Command command = command_;
    command.environment.push_back({variable, value});
    return run(command);
  }
  // Faults that the last run met.
  std::size_t faults() const { return fs::exists(report_) ? fs::file_size(report_) : 0; }

 private:
  TempDir report_directory_;
  fs::path report_;
  Command command_;
};

CheckpointShape several_reads() {
  CheckpointShape shape;
  shape.shards = 2;
  return shape;
}

const std::vector<std::string> kSomeTokens = {"-p",     "the", "-n",        "6",
                                              "--seed", "1",   "--threads", "2"};

TEST_CASE("interrupted and short reads change nothing") {
  if (!can_preload()) return;
  const RandomCheckpoint checkpoint(several_reads());
  const Result expected = generate(checkpoint.path(), kSomeTokens);
  REQUIRE(expected.exit_code == 0);
  Faulty faulty(checkpoint, kSomeTokens);
  for (const char* fault : {"eintr", "short"}) {
    const Result result = faulty.run_with("ENGINE_FAULT_READ", fault);
    CHECK_MESSAGE(result.exit_code == 0, result.describe());
    CHECK(result.out == expected.out);
    CHECK(faulty.faults() > 10);
  }
}

TEST_CASE("a read error ends the run with 1 and names the file, whichever read it is") {
  if (!can_preload()) return;
  const RandomCheckpoint checkpoint(several_reads());
  Faulty faulty(checkpoint, kSomeTokens);
  for (const std::string kind : {"once:", "eio:"}) {
    bool ended = false;
    for (int n = 1; n < 200 && !ended; ++n) {
      CAPTURE(kind);
      CAPTURE(n);
      const Result result = faulty.run_with("ENGINE_FAULT_READ", kind + std::to_string(n));
      ended = faulty.faults() == 0;  // the run has fewer reads
      if (ended) {
        CHECK_MESSAGE(result.exit_code == 0, result.describe());
        CHECK(n > 20);
      } else {
        check_refused_at_once(result, 1, {checkpoint.name(), "Input/output error"});
      }
    }
    CHECK(ended);
  }
}

TEST_CASE("a file that shrinks while it is loaded ends the run with 3 and both sizes") {
  if (!can_preload()) return;
  for (int n = 1; n < 200; ++n) {
    CAPTURE(n);
    const RandomCheckpoint checkpoint(several_reads());
    Faulty faulty(checkpoint, kSomeTokens);
    const Result result = faulty.run_with("ENGINE_FAULT_READ", "cut:" + std::to_string(n) + ":5");
    CHECK_MESSAGE(result.signal == 0, result.describe());
    if (faulty.faults() == 0) {
      CHECK_MESSAGE(result.exit_code == 0, result.describe());
      CHECK(n > 20);
      return;
    }
    check_refused_at_once(result, 3, {checkpoint.name(), "expected", "found"});
  }
  FAIL("the run never ended without a cut");
}

TEST_CASE("a signal while weights are read ends the run at once") {
  if (!can_preload()) return;
  const RandomCheckpoint checkpoint(several_reads());
  for (const double delay : {0.05, 0.3, 0.6}) {
    Command command = generate_command(checkpoint.path(), kSomeTokens);
    command.environment = {{"LD_PRELOAD", program("libengine_faults.so").string()},
                           {"ENGINE_FAULT_DIR", checkpoint.name()},
                           {"ENGINE_FAULT_READ", "slow:300"}};
    command.signal = 15;
    command.signal_delay_s = delay;
    const Result result = run(command);
    CHECK_MESSAGE(result.exit_code == 143, result.describe());
    CHECK(result.after_signal_s < 1.0);
    CHECK(result.out.empty());
  }
}

// How a run ends that found no memory for something.
void check_out_of_memory(const Result& result) {
  CHECK_MESSAGE(result.signal == 0, result.describe());
  CHECK_MESSAGE(!result.timed_out, result.describe());
  CHECK_MESSAGE(result.exit_code == 5, result.describe());
  CHECK_MESSAGE(result.error_lines() == 1, result.describe());
}

TEST_CASE("any large allocation that fails ends the run with 5") {
  if (!can_preload()) return;
  const RandomCheckpoint checkpoint;
  for (const std::string suffix : {":4096", ":4096:all"}) {
    Faulty faulty(checkpoint, kSomeTokens);
    int n = 1;
    for (; n < 400; ++n) {
      CAPTURE(suffix);
      CAPTURE(n);
      const Result result = faulty.run_with("ENGINE_FAULT_ALLOC", std::to_string(n) + suffix);
      if (faulty.faults() == 0) break;
      // What needs no memory to go on, a buffer of a stream say, may go on.
      if (result.exit_code != 0) check_out_of_memory(result);
    }
    CHECK(n > 10);
    CHECK(n < 400);
  }
}

TEST_CASE("any allocation that fails ends the run with a documented code") {
  if (!can_preload()) return;
  const RandomCheckpoint checkpoint;
  Faulty faulty(checkpoint, kSomeTokens);
  int fives = 0;
  long n = 1;
  for (; n < 1000000; n += 1 + n / 12) {
    for (const std::string suffix : {":1", ":1:all"}) {
      CAPTURE(suffix);
      CAPTURE(n);
      const Result result = faulty.run_with("ENGINE_FAULT_ALLOC", std::to_string(n) + suffix);
      if (faulty.faults() == 0) break;
      CHECK_MESSAGE(result.signal == 0, result.describe());
      CHECK_MESSAGE(!result.timed_out, result.describe());
      CHECK_MESSAGE(is_documented(result.exit_code), result.describe());
      fives += result.exit_code == 5 ? 1 : 0;
    }
    if (faulty.faults() == 0) break;
  }
  CHECK(n > 1000);
  CHECK(fives > 30);
}

TEST_CASE("an address space that ends gives 5 with need and free") {
  if (kSanitized) {
    MESSAGE("skipped: AddressSanitizer reserves terabytes of address space");
    return;
  }
  // 130 MB of weights.
  CheckpointShape shape;
  shape.hidden = 1024;
  shape.intermediate = 4096;
  shape.layers = 2;
  shape.heads = 8;
  shape.kv_heads = 8;
  shape.positions = 4096;
  shape.sparse = true;
  const RandomCheckpoint checkpoint(shape);
  int refused = 0, numbers = 0;
  bool fits = false;
  // From the least space in which the program and its libraries come to life: a few tens of MB,
  // more where the program is linked with CUDA's libraries.
  std::uint64_t least = 24;
  for (; least < 2048; least += 4) {
    Command version = bare_command({"--version"});
    version.address_space = least << 20;
    if (run(version).exit_code == 0) break;
  }
  REQUIRE(least < 2048);
  for (std::uint64_t above = 0; above <= 1024; above += above < 40 ? 4 : 20) {
    const std::uint64_t megabytes = least + above;
    CAPTURE(megabytes);
    Command command =
        generate_command(checkpoint.path(), {"-p", "the", "-n", "1", "--threads", "2"});
    command.address_space = megabytes << 20;
    command.timeout_s = 30;
    const Result result = run(command);
    CHECK_MESSAGE(result.signal == 0, result.describe());
    CHECK_MESSAGE(!result.timed_out, result.describe());
    // 127: the linker's need differs by a page or two from run to run.
    if (result.exit_code == 127 && above <= 8) continue;
    if (result.exit_code == 0) {
      fits = true;
      break;
    }
    CHECK_MESSAGE(result.exit_code == 5, result.describe());
    ++refused;
    numbers += result.says("need") && result.says("free") ? 1 : 0;
  }
  CHECK(fits);
  CHECK(refused > 3);
  CHECK(numbers > 0);
}

}  // namespace
}  // namespace engine::test
