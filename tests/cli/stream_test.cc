// Standard streams that fail and signals at any time.
#include <csignal>
#include <string>
#include <string_view>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/inputs.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

// A second by the contract; sanitizers get the time that they cost.
constexpr double kStopSeconds = kSanitized ? 5.0 : 1.0;

TEST_CASE("a reader that closes stdout ends the run with 1 and no error line") {
  // More text than a pipe holds, so that the run can't be over before its reader leaves.
  CheckpointShape shape;
  shape.positions = 200000;
  const RandomCheckpoint checkpoint(shape);
  checkpoint.remove_file("tokenizer.json");
  for (const std::size_t bytes : {0, 1, 20}) {
    for (const bool json : {false, true}) {
      CAPTURE(bytes);
      CAPTURE(json);
      Command command = generate_command(
          checkpoint.path(),
          {"--prompt-tokens", "0,5", "-n", json ? "100" : "199000", "--ignore-eos"});
      if (json) command.arguments.push_back("--json");
      command.close_output_after = bytes;
      const Result result = run(command);
      // JSON comes in one piece, which the pipe may have taken before its reader left.
      const bool taken = json && bytes > 0 && result.exit_code == 0;
      CHECK_MESSAGE((result.exit_code == 1 || taken), result.describe());
      CHECK_MESSAGE(result.error_lines() == 0, result.describe());
    }
  }
  for (const char* flag : {"--help", "--version", "--list-devices"}) {
    Command command = bare_command({flag});
    command.close_output_after = 0;
    const Result result = run(command);
    CHECK_MESSAGE(result.exit_code == 1, result.describe());
    CHECK_MESSAGE(result.err.empty(), result.describe());
  }
}

TEST_CASE("a reader that leaves in the middle ends a long run soon") {
  CheckpointShape shape;
  shape.positions = 200000;
  const RandomCheckpoint checkpoint(shape);
  Command command =
      generate_command(checkpoint.path(), {"-p", "the", "--ignore-eos", "-n", "199000"});
  command.close_output_after = 1;
  const Result result = run(command);
  CHECK_MESSAGE(result.exit_code == 1, result.describe());
  CHECK_MESSAGE(result.error_lines() == 0, result.describe());
  CHECK(result.out.size() == 1);
}

TEST_CASE("a full disk under stdout exits 1 with a message") {
  const RandomCheckpoint checkpoint;
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{}, {"--json"}, {"--dry-run"}, {"--tokenize"}}) {
    std::vector<std::string> arguments = {"-p", "the", "-n", "5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Command command = generate_command(checkpoint.path(), arguments);
    command.output_file = "/dev/full";
    check_refused(run(command), 1, {"standard output"});
  }
  Command help = bare_command({"--help"});
  help.output_file = "/dev/full";
  check_refused(run(help), 1, {"standard output"});
}

// Stops a run of `command` after it says `after_err` and wrote `after_out` bytes; the delay is on
// top of that.
void check_signal(Command command, int signal, double delay_s) {
  command.signal = signal;
  command.signal_delay_s = delay_s;
  const Result result = run(command);
  CAPTURE(signal);
  CAPTURE(delay_s);
  // A run that had already ended by then has nothing to stop.
  CHECK_MESSAGE((result.exit_code == 128 + signal || (!result.signalled && result.exit_code == 0)),
                result.describe());
  CHECK_MESSAGE(result.after_signal_s < kStopSeconds, result.after_signal_s,
                " s: ", result.describe());
  CHECK_MESSAGE(result.error_lines() == 0, result.describe());
  CHECK_FALSE(result.says("terminate"));
}

TEST_CASE("SIGINT and SIGTERM at random times of prefill and decode end the run at once") {
  // On one core: prefilling 6,000 tokens takes seconds, each decode step about a millisecond.
  CheckpointShape shape;
  shape.hidden = 512;
  shape.intermediate = 1536;
  shape.layers = 8;
  shape.heads = 8;
  shape.kv_heads = 8;
  shape.positions = 100000;
  shape.dtype = DType::kBF16;
  const RandomCheckpoint checkpoint(shape);
  const Command prefill = generate_command(
      checkpoint.path(),
      {"--prompt-tokens", id_list(std::vector<int>(6000, 5)), "-n", "90000", "--ignore-eos"});
  Command decode =
      generate_command(checkpoint.path(), {"-p", "the", "-n", "90000", "--ignore-eos"});
  Random random(7);
  for (int i = 0; i < 5; ++i) {
    for (const int signal : {SIGINT, SIGTERM}) {
      check_signal(prefill, signal, random.uniform(0.0, 1.0));
      decode.signal_after_out = 0;
      check_signal(decode, signal, random.uniform(0.0, 0.3));
      decode.signal_after_out = 1;
      check_signal(decode, signal, random.uniform(0.0, 0.3));
    }
  }
}

TEST_CASE("what was generated before a signal is there") {
  CheckpointShape shape;
  shape.positions = 200000;
  const RandomCheckpoint checkpoint(shape);
  const std::vector<std::string> arguments = {
      "-p", "the", "-n", "199000", "--ignore-eos", "--seed", "1", "--max-context", "199100"};
  Command command = generate_command(checkpoint.path(), arguments);
  command.signal = SIGINT;
  command.signal_after_out = 200;
  const Result text = run(command);
  CHECK_MESSAGE(text.exit_code == 130, text.describe());
  CHECK(text.out.size() >= 200);
  CHECK(text.out.ends_with("\n"));
  CHECK(text.says("stop: interrupted"));
  // The whole text begins with it.
  std::vector<std::string> whole = arguments;
  whole[3] = std::to_string(text.out.size() + 10);
  const Result longer = generate(checkpoint.path(), whole);
  std::string begun = text.out.substr(0, text.out.size() - 1);
  // A character that the signal cut is shown as U+FFFD; here it is whole.
  constexpr std::string_view kReplacement = "\xef\xbf\xbd";
  if (begun.ends_with(kReplacement)) begun.resize(begun.size() - kReplacement.size());
  CHECK(longer.out.starts_with(begun));

  command.arguments.push_back("--json");
  command.signal_after_out = 0;
  command.signal_after_err = "sampling: ";
  command.signal_delay_s = 0.05;
  const Result object = run(command);
  CHECK_MESSAGE(object.exit_code == 130, object.describe());
  CHECK(nlohmann::json::parse(object.out).at("stop_reason") == "interrupted");
}

TEST_CASE("a signal ends a run that waits for its input or for a reader") {
  const RandomCheckpoint checkpoint;
  Command waiting = generate_command(checkpoint.path(), {"-n", "5"});
  waiting.standard_input = Stdin::kOpen;
  check_signal(waiting, SIGINT, 0.1);
  check_signal(waiting, SIGTERM, 0.1);
}

TEST_CASE("a signal while other outputs are made ends the run and leaves no file") {
  CheckpointShape shape;
  shape.hidden = 512;
  shape.intermediate = 1536;
  shape.layers = 8;
  shape.heads = 8;
  shape.kv_heads = 8;
  shape.positions = 20000;
  const RandomCheckpoint checkpoint(shape);
  const TempDir output;
  Command logits = generate_command(
      checkpoint.path(), {"--prompt-tokens", id_list(std::vector<int>(19000, 5)), "-n", "0",
                          "--logits", (output.path() / "a.npy").string()});
  logits.signal_after_err = "sampling: ";
  check_signal(logits, SIGINT, 0.3);
  CHECK(std::filesystem::is_empty(output.path()));
  checkpoint.write_file("text", std::string(19000, 'x'));
  Command perplexity =
      generate_command(checkpoint.path(), {"--perplexity", checkpoint.name() + "/text"});
  perplexity.signal_after_err = "device: ";
  check_signal(perplexity, SIGTERM, 0.3);
}

}  // namespace
}  // namespace engine::test
