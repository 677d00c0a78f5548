// Every command of README.md that needs no GPU runs and exits 0; and the reader of them, on planted
// text.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "tests/cli/readme_commands.h"
#include "tests/support/paths.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE_MESSAGE(stream.good(), path.string(), " can't be read");
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// A folder that looks like the root of a built tree: links to what is there, and build/cpu/bin a
// link to the programs under test. What commands write lands here and goes with it.
class ScratchTree {
 public:
  ScratchTree() {
    std::string pattern = (fs::temp_directory_path() / "readme_test.XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
    for (const fs::directory_entry& entry : fs::directory_iterator(source_dir())) {
      const fs::path name = entry.path().filename();
      if (name != "build") fs::create_symlink(entry.path(), root_ / name);
    }
    fs::create_directories(root_ / "build/cpu");
    fs::create_directory_symlink(program("").parent_path(), root_ / "build/cpu/bin");
  }
  ~ScratchTree() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);  // removes the links, not what they point at
  }
  ScratchTree(const ScratchTree&) = delete;
  ScratchTree& operator=(const ScratchTree&) = delete;

  // Runs `command` here in bash with `flags`; the exit status, and its output in `output`.
  int run(const std::string& command, const std::string& flags, std::string* output) const {
    std::ofstream(root_ / "command.sh") << command << "\n";
    const std::string line = "cd '" + root_.string() + "' && timeout 300 bash " + flags +
                             " command.sh > output.txt 2>&1 < /dev/null";
    const int status = std::system(line.c_str());
    *output = read_text(root_ / "output.txt");
    return status;
  }

 private:
  fs::path root_;
};

TEST_CASE("every command of README.md that needs no GPU runs, the others are well formed") {
  const ScratchTree tree;
  int ran = 0;
  for (const ReadmeCommand& command : readme_commands(read_text(source_dir() / "README.md"))) {
    CAPTURE(command.line);
    CAPTURE(command.text);
    std::string output;
    if (command.kind == ReadmeKind::kRun) {
      ++ran;
      const int status = tree.run(command.text, "-euo pipefail", &output);
      CHECK_MESSAGE(status == 0, output);
      continue;
    }
    const int syntax = tree.run(command.text, "-n", &output);
    CHECK_MESSAGE(syntax == 0, output);
    if (command.kind == ReadmeKind::kSetup && command.text.starts_with("make ")) {
      const int known = tree.run("make -n " + command.text.substr(5), "-eu", &output);
      CHECK_MESSAGE(known == 0, output);
    }
  }
  CHECK(ran > 0);
}

TEST_CASE("commands are read from the marked blocks of a README") {
  const auto commands = readme_commands(
      "# Title\n\n<!-- test: run -->\n```console\n$ one -x \\\n    y\noutput\n$ two\n```\n"
      "text with ``code``\n```cpp\nint x;\n```\n"
      "<!-- test: setup -->\n```sh\n# a comment\nmake demo\n\n```\n"
      "<!-- test: needs-gpu -->\n```sh\nthree | four\n```\n");
  REQUIRE(commands.size() == 4);
  CHECK(commands[0].kind == ReadmeKind::kRun);
  CHECK(commands[0].text == "one -x     y");
  CHECK(commands[0].line == 5);
  CHECK(commands[1].text == "two");
  CHECK(commands[2].kind == ReadmeKind::kSetup);
  CHECK(commands[2].text == "make demo");
  CHECK(commands[3].kind == ReadmeKind::kNeedsGpu);
  CHECK(commands[3].text == "three | four");
  CHECK(commands[3].line == 22);
}

TEST_CASE("a README that could hide a command from the test is refused") {
  for (const char* text :
       {"```sh\nls\n```\n", "```console\n$ ls\n```\n", "```bash\nls\n```\n",
        "<!-- test: skip -->\n```sh\nls\n```\n", "<!-- test: run\n```sh\nls\n```\n",
        "<!-- test: run -->\n", "<!-- test: run -->\n\n```sh\nls\n```\n",
        "<!-- test: run -->\n```cpp\nint x;\n```\n", "<!-- test: run -->\n```sh\nls\n",
        "<!-- test: run -->\n```sh\n# nothing\n```\n",
        "<!-- test: run -->\n<!-- test: setup -->\n```sh\nls\n```\n",
        "<!-- test: run -->\n```console\noutput alone\n```\n"}) {
    CAPTURE(std::string_view(text));
    CHECK_THROWS_AS(readme_commands(text), std::runtime_error);
  }
}

TEST_CASE("a failing command of a README is seen") {
  const ScratchTree tree;
  std::string output;
  CHECK(tree.run("true", "-euo pipefail", &output) == 0);
  CHECK(tree.run("echo said; false | cat", "-euo pipefail", &output) != 0);
  CHECK(output == "said\n");
  CHECK(tree.run("if", "-n", &output) != 0);
  CHECK(tree.run("make -n no-such-target", "-eu", &output) != 0);
  CHECK(tree.run("make -n demo", "-eu", &output) == 0);
}

}  // namespace
}  // namespace engine::test
