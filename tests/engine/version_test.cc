// The facts behind --version, against what git and CMake say.
#include "engine/version.h"

#include <doctest/doctest.h>

#include <regex>
#include <string>

namespace engine {
namespace {

TEST_CASE("the version is semantic and the commit a hash, maybe dirty, or unknown") {
  CHECK(std::regex_match(build_info().version, std::regex(R"(\d+\.\d+\.\d+)")));
  CHECK(std::regex_match(build_info().commit, std::regex("unknown|[0-9a-f]{12,}(-dirty)?")));
}

TEST_CASE("the version text names every fact of the build") {
  const std::string text = version_text();
  const BuildInfo& info = build_info();
  CHECK(text.starts_with(std::string("engine ") + info.version + "\n"));
  CHECK(text.find(std::string("\ncommit: ") + info.commit) != std::string::npos);
  CHECK(text.find(std::string("\nbuild type: ") + info.build_type) != std::string::npos);
  const bool has_cuda = *info.cuda_version != '\0';
  CHECK(has_cuda == (*info.cuda_architectures != '\0'));
  CHECK(has_cuda == (text.find("CUDA: not built") == std::string::npos));
  if (has_cuda) {
    CHECK(std::regex_search(text, std::regex(R"(\nCUDA: \d+\.\d+.*, architectures \d+)")));
  }
}

}  // namespace
}  // namespace engine
