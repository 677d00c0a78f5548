// The rules of a safetensors file. Verdicts were taken from the reference reader (safetensors
// 0.8.0 for Python, safetensors.deserialize) except where a case says that we are stricter.
#include "engine/io/safetensors.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "tests/support/outcome.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"
#include "tests/support/testdata.h"

namespace engine {
namespace {

using test::header_entry;
using test::Outcome;
using test::outcome_of;
using test::safetensors_bytes;
using test::TempDir;

Outcome open_outcome(const TempDir& dir, const std::string& bytes) {
  const auto path = dir.write("x.safetensors", bytes);
  return outcome_of([&] { SafetensorsFile{path}; });
}

TEST_CASE("safetensors: tensors are listed in the order of the data with absolute offsets") {
  const TempDir dir;
  const std::string header =
      concat("{", header_entry("late", "BF16", "2,1", 4, 8), ",",
             header_entry("empty", "F32", "3,0", 8, 8), ",\"__metadata__\":{\"format\":\"pt\"},",
             header_entry("scalar", "F32", "", 0, 4), "}  ");
  const auto path = dir.write("x.safetensors", safetensors_bytes(header, "abcdefgh"));
  const SafetensorsFile file(path);
  REQUIRE(file.tensors().size() == 3);
  const SafetensorsTensor& scalar = file.tensors()[0];
  const SafetensorsTensor& late = file.tensors()[1];
  const SafetensorsTensor& empty = file.tensors()[2];
  CHECK(scalar.name == "scalar");
  CHECK(scalar.dtype == SafetensorsDType::kF32);
  CHECK(scalar.shape.empty());
  CHECK(scalar.offset == 8 + header.size());
  CHECK(scalar.bytes == 4);
  CHECK(late.name == "late");
  CHECK(late.dtype == SafetensorsDType::kBF16);
  CHECK(late.shape == std::vector<std::int64_t>{2, 1});
  CHECK(late.offset == 8 + header.size() + 4);
  CHECK(empty.bytes == 0);
  std::string data(4, '?');
  file.file().read(late.offset, 4, data.data());
  CHECK(data == "efgh");
  CHECK(shape_text(late.shape) == "[2, 1]");
  CHECK(shape_text({}) == "[]");
}

struct HeaderCase {
  const char* what;
  const char* header;
  const char* data;
  const char* complaint;  // part of the message; null: accepted
};

const HeaderCase kHeaderCases[] = {
    {"a plain tensor", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab", nullptr},
    {"no tensors", "{}", "", nullptr},
    {"padding on both sides", "\t\n {} \r\n", "", nullptr},
    {"an unknown key", R"({"a":{"dtype":"U8","x":1,"shape":[2],"data_offsets":[0,2]}})", "ab",
     nullptr},
    {"an unknown nested key",
     R"({"a":{"x":{"y":[1,{}],"dtype":1},"dtype":"U8","shape":[2],)"
     R"("z":[[]],"data_offsets":[0,2]}})",
     "ab", nullptr},
    {"metadata null", R"({"__metadata__":null})", "", nullptr},
    {"an escaped name", R"({"\ud83d\ude00":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab",
     nullptr},
    {"an empty name", R"({"":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab", nullptr},
    {"a zero size first",
     R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
     "ab", nullptr},
    {"zero before overflow",
     R"({"a":{"dtype":"U8","shape":[0,9999999999999,9999999999999],"data_offsets":[0,0]}})", "",
     nullptr},
    {"four bits", R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", "ab", nullptr},
    {"six bits", R"({"a":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]}})", "abc", nullptr},
    {"a name twice: stricter",
     R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("a":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
     "ab", "\"a\" occurs twice"},
    {"a metadata key twice: stricter", R"({"__metadata__":{"k":"1","k":"1"}})", "",
     "the key \"k\" occurs twice"},
    {"an entry as an array: stricter", R"({"a":["U8",[2],[0,2]]})", "ab",
     "\"a\": expected an object, found an array"},
    {"a dimension of 2^63: stricter",
     R"({"a":{"dtype":"U8","shape":[0,9223372036854775808],"data_offsets":[0,0]}})", "",
     "a dimension of 9223372036854775808"},
    {"dtype twice", R"({"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab",
     "\"dtype\" occurs twice"},
    {"shape twice", R"({"a":{"dtype":"U8","shape":[2],"shape":[2],"data_offsets":[0,2]}})", "ab",
     "\"shape\" occurs twice"},
    {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", "", "occurs twice"},
    {"metadata a number", R"({"__metadata__":{"k":1}})", "", "expected strings, found a number"},
    {"metadata nested", R"({"__metadata__":{"k":{}}})", "", "expected strings, found an object"},
    {"metadata a string", R"({"__metadata__":"k"})", "", "expected an object, found a string"},
    {"a byte order mark", "\xef\xbb\xbf{}", "", "byte order mark"},
    {"two documents", "{}{}", "", "end of input"},
    {"a comment", "{}//", "", "syntax error"},
    {"a lone surrogate", R"({"\ud800":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab",
     "surrogate"},
    {"a fraction", R"({"a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}})", "ab",
     "expected an array of unsigned integers as shape"},
    {"an exponent", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2e0]}})", "ab",
     "expected two unsigned integers as data_offsets"},
    {"minus zero", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[-0,2]}})", "ab",
     "found a negative number"},
    {"a number of 2^64",
     R"({"a":{"dtype":"U8","shape":[18446744073709551616],)"
     R"("data_offsets":[0,2]}})",
     "ab", "expected an array of unsigned"},
    {"1e400 in a skipped value",
     R"({"a":{"dtype":"U8","x":1e400,"shape":[2],)"
     R"("data_offsets":[0,2]}})",
     "ab", "number overflow"},
    {"three offsets", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,2]}})", "ab",
     "expected 2 numbers, found more"},
    {"one offset", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}})", "ab",
     "expected 2 numbers, found 1"},
    {"offsets nested", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[[0],2]}})", "ab",
     "found an array"},
    {"no dtype", R"({"a":{"shape":[2],"data_offsets":[0,2]}})", "ab", "found no dtype"},
    {"no shape", R"({"a":{"dtype":"U8","data_offsets":[0,2]}})", "ab", "found no shape"},
    {"no offsets", R"({"a":{"dtype":"U8","shape":[2]}})", "ab", "found no data_offsets"},
    {"a null tensor", R"({"a":null})", "", "\"a\": expected an object, found null"},
    {"a boolean dtype", R"({"a":{"dtype":true,"shape":[],"data_offsets":[0,1]}})", "a",
     "expected a string as dtype, found a boolean"},
    {"an unknown dtype", R"({"a":{"dtype":"f32","shape":[],"data_offsets":[0,4]}})", "abcd",
     "unknown dtype \"f32\""},
    {"an array", "[]", "", "expected an object of tensors, found an array"},
    {"null", "null", "", "expected an object of tensors, found null"},
    {"nothing", "", "", "unexpected end of input"},
    {"blanks alone", "    ", "", "unexpected end of input"},
    {"a hole", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "abc", "(a hole)"},
    {"a hole between",
     R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
     R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
     "abc", "\"b\": expected its data at offset 1, found 2 (a hole)"},
    {"an overlap",
     R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
     "abc", "\"b\": expected its data at offset 2, found 1 (an overlap)"},
    {"a zero size inside",
     R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
     "ab", "(an overlap)"},
    {"end before begin", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[2,0]}})", "ab",
     "begin 2 is after end 0"},
    {"a size that differs", R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}})", "ab",
     "expected 3 bytes for shape [3] of U8, found data_offsets over 2"},
    {"half a byte", R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", "ab",
     "no whole number of bytes"},
    {"overflow before zero",
     R"({"a":{"dtype":"U8","shape":[9999999999999,9999999999999,0],"data_offsets":[0,0]}})", "",
     "too large"},
    {"bits overflow",
     R"({"a":{"dtype":"U64","shape":[1152921504606846976],)"
     R"("data_offsets":[0,0]}})",
     "", "too large"},
    {"data missing", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "a",
     "expected 2 bytes of tensor data, found 1"},
    {"data left over", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "abc",
     "expected 2 bytes of tensor data, found 3"},
    {"offsets near 2^64",
     R"({"a":{"dtype":"U8","shape":[1],)"
     R"("data_offsets":[18446744073709551614,18446744073709551615]}})",
     "a", "(a hole)"},
};

TEST_CASE("safetensors: each rule of the header accepts and refuses as it should") {
  const TempDir dir;
  for (const HeaderCase& item : kHeaderCases) {
    CAPTURE(item.what);
    const Outcome outcome = open_outcome(dir, safetensors_bytes(item.header, item.data));
    CAPTURE(outcome.message);
    if (item.complaint == nullptr) {
      CHECK(outcome.ok());
    } else {
      CHECK(outcome.is(ErrorKind::kModel));
      CHECK(outcome.says(item.complaint));
      CHECK(outcome.says("x.safetensors: "));
    }
  }
}

TEST_CASE("safetensors: 64 dimensions are read, more are refused: stricter") {
  const TempDir dir;
  std::string shape = "1";
  for (int rank = 1; rank <= 66; ++rank, shape += ",1") {
    const std::string header = concat("{", header_entry("a", "U8", shape, 0, 1), "}");
    const Outcome outcome = open_outcome(dir, safetensors_bytes(header, "x"));
    CHECK(outcome.ok() == (rank <= 64));
    CHECK(outcome.says("more than 64 dimensions") == (rank > 64));
  }
}

TEST_CASE("safetensors: every dtype has its name and size") {
  const std::pair<const char*, int> dtypes[] = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  const TempDir dir;
  for (const auto& [name, bits] : dtypes) {
    CAPTURE(name);
    const auto bytes = static_cast<std::uint64_t>(bits);  // of 8 elements
    const std::string header = concat("{", header_entry("a", name, "2,4", 0, bytes), "}");
    const auto path =
        dir.write("x.safetensors", safetensors_bytes(header, std::string(bytes, 'x')));
    const SafetensorsFile file(path);
    REQUIRE(file.tensors().size() == 1);
    CHECK(safetensors_dtype_name(file.tensors()[0].dtype) == name);
    CHECK(safetensors_dtype_bits(file.tensors()[0].dtype) == bits);
  }
}

TEST_CASE("safetensors: header lengths at and past their bounds") {
  const TempDir dir;
  for (const std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{100'000'000}, std::uint64_t{100'000'001}, ~std::uint64_t{0},
        ~std::uint64_t{0} - 7, std::uint64_t{1} << 63}) {
    CAPTURE(length);
    CHECK(open_outcome(dir, test::length_bytes(length) + "{}").is(ErrorKind::kModel));
  }
  for (std::size_t size = 0; size < 8; ++size) {
    CHECK(open_outcome(dir, std::string(size, '\0')).says("at least 8 bytes"));
  }
}

TEST_CASE("safetensors: a header padded with megabytes of blanks on both sides is read") {
  const TempDir dir;
  const std::string blanks(9'000'000, ' ');
  CHECK(open_outcome(dir, safetensors_bytes(blanks + "{}" + blanks)).ok());
  CHECK(open_outcome(dir, safetensors_bytes(blanks)).is(ErrorKind::kModel));
}

TEST_CASE("safetensors: the reference's own test files behave as their manifest says") {
  const auto directory = test::testdata("safetensors");
  if (!directory) {
    return;
  }
  std::ifstream manifest_file(*directory / "MANIFEST.json");
  const nlohmann::json manifest = nlohmann::json::parse(manifest_file);
  REQUIRE(manifest.size() >= 18);
  for (const nlohmann::json& row : manifest) {
    const auto name = row.at("file").get<std::string>();
    CAPTURE(name);
    const Outcome outcome = outcome_of([&] { SafetensorsFile{*directory / name}; });
    if (row.at("expect") == "OK") {
      CHECK(outcome.ok());
    } else {
      CHECK(outcome.is(ErrorKind::kModel));
    }
  }
}

std::string golden_bytes() {
  std::ifstream in(test::source_dir() / "tests/model/data/gqa/model.safetensors", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_CASE("safetensors: truncation at any byte of the header and 1000 of the data is refused") {
  const std::string bytes = golden_bytes();
  REQUIRE(bytes.size() > 1000);
  std::uint64_t header = 0;
  for (std::size_t i = 8; i-- > 0;) {
    header = header << 8 | static_cast<unsigned char>(bytes[i]);
  }
  const std::size_t data_start = 8 + static_cast<std::size_t>(header);
  REQUIRE(data_start < bytes.size());
  const TempDir dir;
  const auto path = dir.write("x.safetensors", bytes);
  REQUIRE(outcome_of([&] { SafetensorsFile{path}; }).ok());
  std::vector<std::size_t> lengths;
  for (std::size_t length = 0; length <= data_start; ++length) {
    lengths.push_back(length);
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 1000; ++i) {
    lengths.push_back(data_start + random() % (bytes.size() - data_start));
  }
  std::sort(lengths.rbegin(), lengths.rend());  // each cut shortens the same file
  for (const std::size_t length : lengths) {
    std::filesystem::resize_file(path, length);
    const Outcome outcome = outcome_of([&] { SafetensorsFile{path}; });
    REQUIRE_MESSAGE(outcome.is(ErrorKind::kModel), "cut to ", length, " bytes");
    REQUIRE(outcome.says("found"));
  }
}

}  // namespace
}  // namespace engine
