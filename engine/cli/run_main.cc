#include "engine/cli/run_main.h"

#include <exception>
#include <new>
#include <system_error>

#include "engine/cli/output.h"

namespace engine {
namespace {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kModel:
      return 3;
    case ErrorKind::kUnsupported:
      return 4;
    case ErrorKind::kMemory:
      return 5;
    case ErrorKind::kDevice:
      return 6;
    case ErrorKind::kIo:
    case ErrorKind::kNumeric:
    case ErrorKind::kInternal:
      return 1;
  }
  return 1;
}

}  // namespace

int run_main(int argc, const char* const* argv,
             int (*run)(int argc, const char* const* argv, const SignalWatcher& signals)) {
  reserve_standard_streams();
  try {
    const SignalWatcher signals;
    return run(argc, argv, signals);
  } catch (const BrokenPipe&) {
    return 1;
  } catch (const Error& error) {
    print_error(error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    print_error("out of host memory");
    return exit_code(ErrorKind::kMemory);
  } catch (const std::system_error& error) {
    // What a thread that the system has no memory for throws.
    const bool memory = error.code() == std::errc::resource_unavailable_try_again ||
                        error.code() == std::errc::not_enough_memory;
    print_error(error.what());
    return exit_code(memory ? ErrorKind::kMemory : ErrorKind::kInternal);
  } catch (const std::exception& error) {
    print_error(error.what());
    return 1;
  }
}

}  // namespace engine
