// Errors and always-on checks.
//
// One exception type carries a category; the command line turns the category into an exit code.
// Nothing below main() prints or exits. Every check is on in every build type: `assert` is never
// used on input. The message is one line that names the file, tensor, flag or op, what was expected
// and what was found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace engine {

enum class ErrorKind {
  kUsage,        // the command line or an argument is wrong            (exit 2)
  kModel,        // a checkpoint or tokenizer is missing or malformed   (exit 3)
  kUnsupported,  // a valid model feature this engine does not have     (exit 4)
  kMemory,       // host or device memory is exhausted                  (exit 5)
  kDevice,       // a device is unavailable or failed                   (exit 6)
  kIo,           // reading or writing failed at run time               (exit 1)
  kNumeric,      // a computation gave NaN or infinity                 (exit 1)
  kInternal,     // a broken invariant: a bug in the engine             (exit 1)
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Joins any streamable values into one string: concat("expected ", 3, ", found ", 4).
template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, concat(parts...));
}

// Throws Error{kind} with the joined parts unless `condition` holds. The parts are only evaluated
// on failure.
#define ENGINE_CHECK(condition, kind, ...) \
  do {                                     \
    if (!(condition)) [[unlikely]] {       \
      ::engine::fail((kind), __VA_ARGS__); \
    }                                      \
  } while (false)

// A broken invariant of our own code (shape of an op's operands, a null pointer): kInternal.
#define ENGINE_REQUIRE(condition, ...) \
  ENGINE_CHECK(condition, ::engine::ErrorKind::kInternal, __VA_ARGS__)

// Size arithmetic on numbers that come from a file goes through these two: they throw
// Error{kModel} naming `what` instead of wrapping round.
template <typename Int>
Int checked_mul(Int a, Int b, const char* what) {
  static_assert(std::is_integral_v<Int>);
  Int product{};
  ENGINE_CHECK(!__builtin_mul_overflow(a, b, &product), ErrorKind::kModel, what, ": ", a, " x ", b,
               " overflows");
  return product;
}

template <typename Int>
Int checked_add(Int a, Int b, const char* what) {
  static_assert(std::is_integral_v<Int>);
  Int sum{};
  ENGINE_CHECK(!__builtin_add_overflow(a, b, &sum), ErrorKind::kModel, what, ": ", a, " + ", b,
               " overflows");
  return sum;
}

}  // namespace engine
