// Flags, exit codes and the choice of a device.
#include <algorithm>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

// Nothing of CUDA is to be found.
const std::pair<std::string, std::string> kNoDevices = {"CUDA_VISIBLE_DEVICES", ""};

TEST_CASE("--help names every flag of the contract") {
  for (const char* flag : {"--help", "-h"}) {
    Command command = bare_command({flag});
    command.environment = {kNoDevices};
    const Result result = run(command);
    CHECK(result.exit_code == 0);
    CHECK(result.err.empty());
    for (const std::string name : {"MODEL_DIR",
                                   "-p,",
                                   "--prompt ",
                                   "-f,",
                                   "--prompt-file",
                                   "--prompt-tokens",
                                   "-n,",
                                   "--max-new-tokens",
                                   "--temperature",
                                   "--top-k",
                                   "--top-p",
                                   "--min-p",
                                   "--repetition-penalty",
                                   "--seed",
                                   "--stop",
                                   "--ignore-eos",
                                   "--device",
                                   "--dtype",
                                   "--int8",
                                   "--max-context",
                                   "--threads",
                                   "--json",
                                   "--tokenize",
                                   "--no-bos",
                                   "--stdin-json",
                                   "--logits",
                                   "--perplexity",
                                   "--dry-run",
                                   "--list-devices",
                                   "--version",
                                   "--help"}) {
      CHECK_MESSAGE(result.out.find(name) != std::string::npos, name);
    }
  }
}

TEST_CASE("every flag in --help is accepted by the parser") {
  // A flag that takes a value is refused with "required" when it is last; an unknown one is "not
  // expected". So no option of the list is a name alone.
  const std::string help = run(bare_command({"--help"})).out;
  const std::regex flag("\\n  (?:-[a-z],)?(--[a-z0-9-]+)");
  int count = 0;
  for (std::sregex_iterator at(help.begin(), help.end(), flag), end; at != end; ++at, ++count) {
    const std::string name = (*at)[1];
    const Result result = run(bare_command({"/nonexistent", name}));
    CHECK_MESSAGE(!result.says("not expected"), name);
    CHECK_MESSAGE(is_documented(result.exit_code), result.describe());
  }
  CHECK(count >= 26);
}

TEST_CASE("--version says what was built") {
  const Result result = run(bare_command({"--version"}));
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  CHECK(std::regex_search(result.out, std::regex("^engine \\d+\\.\\d+\\.\\d+")));
  for (const std::string part : {"\ncommit: ", "\nCUDA: ", "\nbuild type: ", "\nCPU ISA: "}) {
    CHECK_MESSAGE(result.out.find(part) != std::string::npos, part);
  }
}

TEST_CASE("--list-devices lists the CPU and says why there is no CUDA") {
  Command command = bare_command({"--list-devices"});
  command.environment = {kNoDevices};
  const Result result = run(command);
  CHECK(result.exit_code == 0);
  CHECK(result.out.starts_with("cpu "));
  CHECK(std::regex_search(result.out, std::regex("\\ncuda +none: .+\\n")));
}

TEST_CASE("a wrong command line exits 2 with one line that names the flag") {
  const RandomCheckpoint checkpoint;
  struct Case {
    std::vector<std::string> arguments;
    const char* says;
  };
  const Case cases[] = {
      {{"--bogus"}, "--bogus"},
      {{"-p", "a", "--int4"}, "--int4"},
      {{"-p", "a", "extra"}, "extra"},
      {{"-p", "a", "-f", "b"}, "--prompt-file"},
      {{"-p", "a", "--prompt-tokens", "1"}, "--prompt-tokens"},
      {{"-f", "a", "--prompt-tokens", "1"}, "--prompt-tokens"},
      {{"-p", "a", "-p", "b"}, "--prompt"},
      {{"-f", "/nonexistent"}, "/nonexistent"},
      {{"-p", "a", "-n", "-1"}, "--max-new-tokens"},
      {{"-p", "a", "-n", "9223372036854775808"}, "--max-new-tokens"},
      {{"-p", "a", "-n", "1e3"}, "--max-new-tokens"},
      {{"-p", "a", "-n", "many"}, "--max-new-tokens"},
      {{"-p", "a", "-n", ""}, "--max-new-tokens"},
      {{"-p", "a", "-n", "1.5"}, "--max-new-tokens"},
      {{"-p", "a", "--seed", "-1"}, "--seed"},
      {{"-p", "a", "--seed", "18446744073709551616"}, "--seed"},
      {{"-p", "a", "--seed", "x"}, "--seed"},
      {{"-p", "a", "--seed", ""}, "--seed"},
      {{"-p", "a", "--temperature", "-0.1"}, "--temperature"},
      {{"-p", "a", "--temperature", "nan"}, "--temperature"},
      {{"-p", "a", "--temperature", "inf"}, "--temperature"},
      {{"-p", "a", "--temperature", "hot"}, "--temperature"},
      {{"-p", "a", "--temperature", ""}, "--temperature"},
      {{"-p", "a", "--top-k", "-1"}, "--top-k"},
      {{"-p", "a", "--top-k", "2.5"}, "--top-k"},
      {{"-p", "a", "--top-k", "4294967296"}, "--top-k"},
      {{"-p", "a", "--top-p", "0"}, "--top-p"},
      {{"-p", "a", "--top-p", "1.01"}, "--top-p"},
      {{"-p", "a", "--min-p", "-0.1"}, "--min-p"},
      {{"-p", "a", "--min-p", "1.1"}, "--min-p"},
      {{"-p", "a", "--repetition-penalty", "0"}, "--repetition-penalty"},
      {{"-p", "a", "--stop", ""}, "--stop"},
      {{"-p", "a", "--dtype", "f64"}, "--dtype"},
      {{"-p", "a", "--dtype", "int8"}, "--dtype"},
      {{"-p", "a", "--dtype", ""}, "--dtype"},
      {{"-p", "a", "--max-context", "0"}, "--max-context"},
      {{"-p", "a", "--max-context", "-5"}, "--max-context"},
      {{"-p", "a", "--max-context", "129"}, "--max-context"},
      {{"-p", "a", "--max-context", "9223372036854775808"}, "--max-context"},
      {{"-p", "a", "--threads", "0"}, "--threads"},
      {{"-p", "a", "--threads", "-2"}, "--threads"},
      {{"-p", "a", "--threads", "1025"}, "--threads"},
      {{"-p", "a", "--threads", "two"}, "--threads"},
      {{"--stdin-json"}, "--stdin-json"},
      {{"--tokenize", "--prompt-tokens", "1"}, "--tokenize"},
      {{"--tokenize", "--stdin-json", "-p", "a"}, "--stdin-json"},
      {{"--perplexity", "/nonexistent"}, "/nonexistent"},
      {{"--perplexity", "/dev/null", "-p", "a"}, "--perplexity"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.arguments);
    check_refused_at_once(generate(checkpoint.path(), c.arguments), 2, {c.says});
  }
}

TEST_CASE("a directory that is not a checkpoint is refused") {
  check_refused_at_once(run(bare_command({})), 2, {"MODEL_DIR"});
  check_refused_at_once(run(bare_command({"-p", "a"})), 2, {"MODEL_DIR"});
  const TempDir empty;
  const std::string file = empty.write("file", "text").string();
  const std::string long_name(300, 'a'), long_path(5000, 'a');
  for (const std::string& directory :
       {std::string("/nonexistent"), file, file + "/below", long_name, long_path}) {
    CAPTURE(directory.substr(0, 40));
    check_refused_at_once(generate(directory, {"-p", "a"}), 3, {directory.substr(0, 100)});
    check_refused_at_once(generate(directory, {"-p", "a", "--tokenize"}), 3,
                          {directory.substr(0, 100)});
  }
  check_refused_at_once(run(bare_command({file, "-p"})), 2, {"--prompt"});
  const TempDir bare;
  check_refused_at_once(generate(bare.path(), {"-p", "a"}), 3, {"config.json"});
}

TEST_CASE("an unknown device exits 2 and one that is not there 6 with the reason") {
  const RandomCheckpoint checkpoint;
  const auto with_device = [&](const std::string& device) {
    Command command =
        bare_command({checkpoint.name(), "-p", "a", "-n", "2", "--seed", "1", "--device", device});
    command.environment = {kNoDevices};
    return run(command);
  };
  for (const std::string device :
       {"nonsense", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:0x"}) {
    CAPTURE(device);
    check_refused_at_once(with_device(device), 2, {"--device"});
  }
  for (const std::string device : {"cuda", "cuda:0", "cuda:7"}) {
    CAPTURE(device);
    check_refused_at_once(with_device(device), 6, {"--device ", device});
  }
  const Result automatic = with_device("auto");
  CHECK_MESSAGE(automatic.exit_code == 0, automatic.describe());
  CHECK(std::regex_search(automatic.err, std::regex("device: cpu \\(.+\\), no usable CUDA.+: .")));
  const Result cpu = with_device("cpu");
  CHECK(cpu.out == automatic.out);
  CHECK(std::regex_search(cpu.err, std::regex("device: cpu \\(.+\\), asked for")));
}

TEST_CASE("the number of threads changes the speed alone") {
  const RandomCheckpoint checkpoint;
  const auto with_threads = [&](const std::string& threads) {
    return generate(checkpoint.path(),
                    {"-p", "the one", "-n", "20", "--seed", "3", "--threads", threads});
  };
  const Result one = with_threads("1");
  CHECK_MESSAGE(one.exit_code == 0, one.describe());
  CHECK(one.says("1 thread,"));
  for (const std::string threads : {"2", "3", "7"}) {
    const Result result = with_threads(threads);
    CHECK_MESSAGE(result.exit_code == 0, result.describe());
    CHECK(result.says(threads + " threads,"));
    CHECK(result.out == one.out);
  }
}

TEST_CASE("--max-context bounds what is generated and is checked against prompt and model") {
  const RandomCheckpoint checkpoint;
  const auto ids = [&](std::int64_t prompt, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {
        "--prompt-tokens", id_list(std::vector<int>(static_cast<std::size_t>(prompt), 5)),
        "--ignore-eos", "--temperature", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return generate_json(checkpoint.path(), arguments);
  };
  // The last token drawn needs no place: a prompt of P in a context of C leaves C − P + 1.
  const nlohmann::json before = ids(15, {"--max-context", "16", "-n", "50"});
  CHECK(before["ids"].size() == 2);
  CHECK(before["stop_reason"] == "length");
  const nlohmann::json at = ids(16, {"--max-context", "16", "-n", "50"});
  CHECK(at["ids"].size() == 1);
  CHECK(at["stop_reason"] == "length");
  CHECK(ids(128, {})["ids"].size() == 1);
  CHECK(ids(127, {})["ids"].size() == 2);
  CHECK(ids(128, {"-n", "0"})["ids"].empty());
  // 2⁶³ − 1 is a legal number of tokens.
  CHECK(ids(120, {"-n", "9223372036854775807"})["ids"].size() == 9);

  const std::string past = id_list(std::vector<int>(17, 5));
  check_refused_at_once(
      generate(checkpoint.path(), {"--prompt-tokens", past, "--max-context", "16"}), 2,
      {"17", "16"});
  check_refused_at_once(generate(checkpoint.path(),
                                 {"--prompt-tokens", id_list(std::vector<int>(129, 5)), "-n", "0"}),
                        2, {"129", "128"});
  // A million tokens too: the numbers, at once.
  Command long_text = generate_command(checkpoint.path(), {"-n", "1"});
  long_text.standard_input = Stdin::kPipe;
  long_text.input = std::string(std::size_t{1} << 20, 'x');
  const Result result = run(long_text);
  check_refused_at_once(result, 2, {"1048577", "128"});
}

TEST_CASE("the context defaults to prompt and new tokens") {
  const RandomCheckpoint checkpoint;
  const auto kv_bytes = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--prompt-tokens", "2,3,4", "--ignore-eos"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return generate_json(checkpoint.path(), arguments)["memory"]["kv_bytes"].get<std::int64_t>();
  };
  // 2 layers of k and v, 2 heads of 8 floats a position; every block is padded to 256 bytes.
  const auto expected = [](std::int64_t positions) {
    const std::int64_t block = (positions * 2 * 8 * 4 + 255) / 256 * 256;
    return 2 * 2 * block;
  };
  CHECK(kv_bytes({"-n", "13"}) == expected(16));
  CHECK(kv_bytes({"-n", "0"}) == expected(3));
  CHECK(kv_bytes({}) == expected(128));  // 3 + 200, at most the model's
  CHECK(kv_bytes({"-n", "1", "--max-context", "100"}) == expected(100));
}

}  // namespace
}  // namespace engine::test
