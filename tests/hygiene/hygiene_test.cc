// Reads the source tree and holds it to the rules of source_rules.h.
#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "tests/hygiene/source_rules.h"
#include "tests/support/paths.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE_MESSAGE(stream.good(), path.string(), " can't be read");
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

TEST_CASE("every source file holds the include rules and the size and shape of a file") {
  const std::set<std::string> extensions = {".h", ".cc", ".cu", ".cuh"};
  for (const char* top : {"quant", "kernels", "engine", "bench", "tests"}) {
    int checked = 0;
    const fs::path folder = source_dir() / top;
    const bool may_be_empty = std::string_view(top) == "bench";
    if (may_be_empty && !fs::exists(folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      if (!entry.is_regular_file() || !extensions.contains(entry.path().extension())) continue;
      ++checked;
      const std::string path = fs::relative(entry.path(), source_dir()).generic_string();
      for (const std::string& violation : violations({path, read_text(entry.path())})) {
        FAIL_CHECK(violation);
      }
    }
    CHECK_MESSAGE((checked > 0 || may_be_empty), top, "/ holds no source file");
  }
}

TEST_CASE("no file of the tree is over 8 MiB") {
  constexpr std::uintmax_t kMaxBytes = std::uintmax_t{8} << 20U;
  const std::set<std::string> not_ours = {"build", "dist", "out"};
  const auto is_hidden = [](const std::string& name) { return name[0] == '.' && name != ".ci"; };
  int checked = 0;
  for (auto it = fs::recursive_directory_iterator(source_dir());
       it != fs::recursive_directory_iterator(); ++it) {
    const std::string name = it->path().filename().string();
    if (it->is_directory() && (not_ours.contains(name) || is_hidden(name))) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file()) {
      ++checked;
      INFO(it->path().string());
      CHECK(it->file_size() <= kMaxBytes);
    }
  }
  CHECK(checked > 0);
}

TEST_CASE("the block of a decoder reads in 25 lines or fewer") {
  const std::string text = read_text(source_dir() / "engine/model/decoder.cc");
  const std::optional<int> lines = body_lines(text, "decoder_layer");
  REQUIRE_MESSAGE(lines.has_value(), "engine/model/decoder.cc defines no decoder_layer");
  CHECK(*lines > 0);
  CHECK(*lines <= 25);
}

}  // namespace
}  // namespace engine::test
