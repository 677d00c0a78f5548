// The JSON reader: its values, its refusals, and its agreement with nlohmann's own reader.
#include "engine/io/json.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tests/support/outcome.h"

namespace engine {
namespace {

using test::Outcome;
using test::outcome_of;

Outcome parse_outcome(const std::string& text) {
  return outcome_of([&] { parse_json(text, "file.json"); });
}

// Whether a Json holds what nlohmann's value holds.
bool same(const Json& ours, const nlohmann::json& theirs) {
  if (theirs.is_object()) {
    return ours.is_object() && ours.members().size() == theirs.size() &&
           std::all_of(ours.members().begin(), ours.members().end(), [&](const auto& member) {
             return theirs.contains(member.first) && same(member.second, theirs[member.first]) &&
                    ours.find(member.first) == &member.second;
           });
  }
  if (theirs.is_array()) {
    if (!ours.is_array() || ours.array().size() != theirs.size()) {
      return false;
    }
    for (std::size_t i = 0; i < theirs.size(); ++i) {
      if (!same(ours.array()[i], theirs[i])) {
        return false;
      }
    }
    return true;
  }
  if (theirs.is_string()) {
    return ours.is_string() && ours.string() == theirs.get<std::string>();
  }
  if (theirs.is_number()) {
    return ours.is_number() && ours.number() == theirs.get<double>() &&
           (!ours.is_integer() || ours.integer() == theirs.get<std::int64_t>());
  }
  if (theirs.is_boolean()) {
    return ours.is_bool() && ours.boolean() == theirs.get<bool>();
  }
  return theirs.is_null() && ours.is_null();
}

TEST_CASE("json: values of every type come out as nlohmann reads them") {
  for (const char* text :
       {"null", "true", "-1", "9223372036854775807", "-9223372036854775808", "18446744073709551615",
        "1.5e300", "1e-400", "\"\"", "\"a\\u00e9\\ud83d\\ude00\\n\"", "[]", "{}",
        " [1, [2, {\"a\": null}], \"x\"] ",
        "{\"b\": {\"y\": 1, \"x\": [true, false]}, \"a\": -0.5, \"\": \"empty key\"}"}) {
    CAPTURE(text);
    CHECK(same(parse_json(text, "file.json"), nlohmann::json::parse(text)));
  }
}

TEST_CASE("json: an integer beyond int64 is a number but no integer") {
  const Json value = parse_json("9223372036854775808", "f");
  CHECK(value.is_number());
  CHECK_FALSE(value.is_integer());
  CHECK(value.number() == 9223372036854775808.0);
}

TEST_CASE("json: members keep the order of the file and are found by name") {
  const Json value = parse_json("{\"z\":1,\"a\":2,\"m\":3}", "f");
  REQUIRE(value.members().size() == 3);
  CHECK(value.members()[0].first == "z");
  CHECK(value.members()[2].first == "m");
  REQUIRE(value.find("a") != nullptr);
  CHECK(value.find("a")->integer() == 2);
  CHECK(value.find("b") == nullptr);
  CHECK(Json(true).find("a") == nullptr);
}

TEST_CASE("json: malformed texts are refused with kModel, naming the file") {
  const std::string_view nul("[1]\0garbage", 11);
  const std::string texts[] = {"",
                               " ",
                               "[",
                               "{",
                               "[1,]",
                               "{\"a\":1,}",
                               "[1] 2",
                               "01",
                               "+1",
                               ".5",
                               "1.",
                               "NaN",
                               "Infinity",
                               "-",
                               "'a'",
                               "{a:1}",
                               "{\"a\"}",
                               "[1 2]",
                               "// c\n1",
                               "/* c */ 1",
                               "tru",
                               "nul",
                               "1e400",
                               "-1e400",
                               "[1e999999999]",
                               "\"\\ud800\"",
                               "\"\\udc00\"",
                               "\"\\ud800\\ud800\"",
                               "\"\\x41\"",
                               "\"tab\there\"",
                               "\"open",
                               "\"\xff\"",
                               "\"\xc0\xaf\"",
                               "\"\xed\xa0\x80\"",
                               "\"\xf5\x80\x80\x80\"",
                               "\"\xe2\x82\"",
                               "\xef\xbb\xbf{}",
                               "\xc3\xa9",
                               std::string(nul),
                               std::string("{}\0", 3)};
  for (const std::string& text : texts) {
    CAPTURE(text);
    const Outcome outcome = parse_outcome(text);
    CHECK(outcome.is(ErrorKind::kModel));
    CHECK(outcome.says("file.json: byte "));
    CHECK(outcome.message.size() < 400);
    CHECK_FALSE(outcome.says("\n"));
  }
}

TEST_CASE("json: the position of an error is the byte where it stands") {
  CHECK(parse_outcome("{\"a\": 1, \"b\": x}").says("file.json: byte 15: line 1, column 15"));
  CHECK(parse_outcome("[1,\n2,\n}").says("line 3, column 1"));
}

TEST_CASE("json: duplicate keys are refused at any level, equal keys of two objects are not") {
  CHECK(parse_outcome("{\"a\":1,\"a\":1}").says("the key \"a\" occurs twice"));
  CHECK(parse_outcome("[{\"b\":{\"x\":1,\"y\":2,\"x\":3}}]").says("\"x\" occurs twice"));
  CHECK(parse_outcome("{\"\\u0061\":1,\"a\":2}").is(ErrorKind::kModel));
  CHECK(parse_outcome("[{\"a\":1},{\"a\":1}]").ok());
}

TEST_CASE("json: nesting is allowed to the limit and refused beyond it, however deep") {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  CHECK(parse_outcome(nested(kMaxJsonDepth)).ok());
  CHECK(parse_outcome(nested(kMaxJsonDepth + 1)).says("nested deeper than 64"));
  CHECK(parse_outcome(std::string(100'000, '[')).is(ErrorKind::kModel));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) {
    objects += "{\"a\":";
  }
  CHECK(parse_outcome(objects).is(ErrorKind::kModel));
}

TEST_CASE("json: reading a value as another type is refused, saying what it is") {
  CHECK(outcome_of([] { Json(true).string(); }).says("expected a string, found true"));
  CHECK(outcome_of([] { Json(1.5).integer(); }).says("expected an integer, found 1.5"));
  CHECK(outcome_of([] { Json().number(); }).says("expected a number, found null"));
  CHECK(outcome_of([] {
          Json(std::string("a\"b\n")).array();
        }).says("expected an array, found the string \"a\\\"b\\x0a\""));
  CHECK(outcome_of([] { Json(Json::Array{}).members(); }).says("found an array"));
  CHECK(outcome_of([] { Json::object({}).boolean(); }).says("found an object"));
  CHECK(quote(std::string(1000, 'x')).size() < 80);
}

// Gives a text in pieces of a fixed size.
JsonSource in_pieces(std::string_view text, std::size_t size) {
  return [text, size]() mutable {
    const std::string_view piece = text.substr(0, size);
    text.remove_prefix(piece.size());
    return piece;
  };
}

// Writes events down as one string.
class Recorder : public JsonEvents {
 public:
  void null() override { log += "n "; }
  void boolean(bool value) override { log += value ? "t " : "f "; }
  void negative(std::int64_t value) override { log += std::to_string(value) + " "; }
  void non_negative(std::uint64_t value) override {
    (log += '+').append(std::to_string(value)) += ' ';
  }
  void real(double value) override { (log += 'r').append(std::to_string(value)) += ' '; }
  void string(std::string& value) override { (log += '\'').append(value) += "' "; }
  void begin_object() override { log += "{ "; }
  void key(std::string& value) override { log += value + ": "; }
  void end_object() override { log += "} "; }
  void begin_array() override { log += "[ "; }
  void end_array() override { log += "] "; }
  std::string log;
};

TEST_CASE("json: events are the same however the text is cut") {
  const std::string text =
      "{\"a\": [1, -2, 0.5, null, true], \"b\u00e9\": {\"c\": \"\\u00e9x\"}, \"d\": "
      "18446744073709551615}";
  for (const std::size_t size : {1u, 2u, 3u, 7u, 1000u}) {
    Recorder events;
    parse_json_events(in_pieces(text, size), "f", 100, events);
    CHECK(events.log ==
          "{ a: [ +1 -2 r0.500000 n t ] b\u00e9: { c: '\u00e9x' } d: +18446744073709551615 } ");
  }
}

TEST_CASE("json: a token longer than the limit is refused before it is read to its end") {
  const std::string texts[] = {"\"" + std::string(100'000, 'x') + "\"",
                               "[" + std::string(100'000, ' ') + "]",
                               "1" + std::string(100'000, '0')};
  for (const std::string& text : texts) {
    Recorder events;
    std::size_t given = 0;
    const JsonSource counted = [&, source = in_pieces(text, 100)] {
      const std::string_view piece = source();
      given += piece.size();
      return piece;
    };
    const Outcome outcome = outcome_of([&] { parse_json_events(counted, "f", 1000, events); });
    CHECK(outcome.says("more than 1000 bytes in one string"));
    CHECK(given < 1500);
  }
}

}  // namespace
}  // namespace engine
