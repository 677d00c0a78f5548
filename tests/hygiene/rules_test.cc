// The rules themselves, on planted text: each violation is reported, and nothing else is.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/hygiene/source_rules.h"

namespace engine::test {
namespace {

std::vector<std::string> check(const char* path, const std::string& text) {
  const std::string path_text = path;
  const bool header = path_text.ends_with(".h") || path_text.ends_with(".cuh");
  return violations({path_text, (header ? "#pragma once\n" : "") + text});
}

std::string include_line(const std::string& what) { return "#include " + what + "\n"; }

TEST_CASE("an include against the layers is reported") {
  struct Case {
    const char* path;
    const char* include;
  };
  const Case cases[] = {
      {"quant/int8.h", "\"kernels/core/check.h\""},
      {"quant/int8.cc", "<nlohmann/json.hpp>"},
      {"quant/int8.cc", "<immintrin.h>"},
      {"quant/int8.cc", "<omp.h>"},
      {"kernels/ops.cc", "\"engine/io/json.h\""},
      {"kernels/ops.cc", "\"bench/report.h\""},
      {"kernels/ops.cc", "\"tests/support/paths.h\""},
      {"kernels/ops.cc", "\"kernels/cpu/cpu_backend.h\""},
      {"kernels/ops.cc", "\"kernels/cuda/cuda_backend.h\""},
      {"kernels/backend.cc", "\"kernels/cpu/rmsnorm.h\""},
      {"kernels/ops.cc", "<cuda_runtime.h>"},
      {"kernels/core/buffer.h", "<cuda.h>"},
      {"kernels/cpu/linear.cc", "<cublasLt.h>"},
      {"kernels/cpu/linear.cc", "\"kernels/cuda/launch.cuh\""},
      {"kernels/cuda/linear.cu", "\"kernels/cpu/linear.h\""},
      {"kernels/cuda/sample.cu", "<cub/cub.cuh>"},
      {"kernels/cpu/linear.cc", "\"quant/int8_device.cuh\""},
      {"engine/model/decoder.cc", "\"kernels/backend.h\""},
      {"engine/model/decoder.cc", "\"engine/runtime/session.h\""},
      {"engine/runtime/session.cc", "\"kernels/cuda/cuda_backend.h\""},
      {"engine/runtime/session.cc", "\"kernels/cpu/cpu_backend.h\""},
      {"engine/runtime/session.cc", "\"kernels/reference/rmsnorm.h\""},
      {"engine/engine_generate.cc", "\"kernels/cpu/cpu_backend.h\""},
      {"engine/engine_generate.cc", "\"bench/report.h\""},
      {"engine/engine_generate.cc", "<cuda_runtime_api.h>"},
      {"engine/io/json.cc", "\"tests/support/paths.h\""},
      {"bench/report.cc", "\"tests/support/paths.h\""},
      {"tests/kernels/linear_test.cc", "<cuda_runtime.h>"},
      {"engine/io/json.cc", "\"json.h\""},
      {"engine/io/json.cc", "<kernels/ops.h>"},
      {"engine/io/json.cc", "ENGINE_HEADER"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.path);
    CAPTURE(c.include);
    CHECK(check(c.path, include_line(c.include)).size() == 1);
    CHECK(check(c.path, "  #  include " + std::string(c.include) + "  // why\n").size() == 1);
  }
}

TEST_CASE("an include that the layers allow is not reported") {
  struct Case {
    const char* path;
    const char* include;
  };
  const Case cases[] = {
      {"quant/int8.cc", "<vector>"},
      {"quant/int8.cc", "\"quant/int8.h\""},
      {"quant/int8_device.cuh", "<cuda_fp16.h>"},
      {"kernels/ops.cc", "\"quant/format.h\""},
      {"kernels/backend.cc", "\"kernels/cuda/cuda_backend.h\""},
      {"kernels/backend.cc", "\"kernels/cpu/cpu_backend.h\""},
      {"kernels/cuda/sample.cu", "<cub/block/block_scan.cuh>"},
      {"kernels/cuda/linear.cu", "\"quant/int8_device.cuh\""},
      {"kernels/cpu/linear.cc", "<immintrin.h>"},
      {"engine/model/decoder.cc", "\"kernels/ops.h\""},
      {"engine/model/llama.cc", "\"engine/io/weight_binder.h\""},
      {"engine/runtime/session.cc", "\"kernels/backend.h\""},
      {"bench/report.cc", "\"kernels/reference/rmsnorm.h\""},
      {"tests/kernels/linear_test.cc", "\"kernels/cpu/linear.h\""},
      {"tests/kernels/linear_test.cc", "<doctest/doctest.h>"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.path);
    CAPTURE(c.include);
    CHECK(check(c.path, include_line(c.include)).empty());
  }
}

TEST_CASE("the CUDA switch is reported outside kernels/backend.cc") {
  for (const char* line : {"#if ENGINE_CUDA\n", "#ifdef ENGINE_CUDA\n", "# elif !ENGINE_CUDA\n",
                           "#if defined(ENGINE_CUDA)\n", "#define ENGINE_CUDA 1\n"}) {
    CAPTURE(line);
    CHECK(check("engine/engine_generate.cc", line).size() == 1);
    CHECK(check("kernels/backend.cc", line).empty());
    CHECK(check("tests/cli/cli_test.cc", line).size() == 1);
  }
  CHECK(check("engine/engine_generate.cc", "#if ENGINE_CUDA_PATH\n").empty());
}

TEST_CASE("the size and shape of a file are reported") {
  std::string lines;
  for (int i = 0; i < 600; ++i) lines += "int x;\n";
  CHECK(check("engine/a.cc", lines).empty());
  CHECK(check("engine/a.cc", lines + "int x;\n").size() == 1);
  CHECK(violations({"engine/a.h", "int x;\n"}).size() == 1);
  CHECK(violations({"engine/a.cuh", "int x;\n"}).size() == 1);
  CHECK(violations({"engine/a.inc.h", "int x;\n"}).empty());
  CHECK(check("engine/a.cc", "int x;").size() == 1);
  CHECK(check("engine/a.cc", "\tint x;\n").size() == 1);
  CHECK(check("engine/a.cc", "int x; \n").size() == 1);
  CHECK(check("engine/a.cc", "int x;\r\n").size() == 1);
  CHECK(check("engine/a.cc", std::string(101, '/') + "\n").size() == 1);
  CHECK(check("engine/a.cc", std::string(98, '/') + "\xC3\x97\xC3\x97\n").empty());
}

TEST_CASE("a violation names its file and line") {
  const std::vector<std::string> found = check("quant/a.cc", "\n#include \"engine/io/json.h\"\n");
  REQUIRE(found.size() == 1);
  CHECK(found[0] == "quant/a.cc:2: includes engine/io/json.h: quant is a leaf");
}

TEST_CASE("the body of a function is counted, of its definition alone") {
  const char* text =
      "void layer(int a);\n"
      "// layer (of a decoder)\n"
      "void layer(int a) {\n"
      "  if (a) {\n"
      "    use(a);\n"
      "  }\n"
      "}\n"
      "void other_layer(int a) { if (layer(1)) { } }\n"
      "  if (indented(1)) {\n"
      "  }\n";
  CHECK(body_lines(text, "layer") == 3);
  CHECK(body_lines(text, "other_layer") == 0);
  CHECK_FALSE(body_lines(text, "indented").has_value());
  CHECK_FALSE(body_lines(text, "absent").has_value());
  CHECK_FALSE(body_lines("void layer(int a);\n", "layer").has_value());
}

}  // namespace
}  // namespace engine::test
