// What every program's main does around its own work.
#pragma once

#include "engine/cli/signals.h"
#include "kernels/core/check.h"

namespace engine {

// Runs `run` with signals watched and turns what it throws into one line on stderr and the exit
// code of the command-line contract. The code of a normal return is `run`'s.
int run_main(int argc, const char* const* argv,
             int (*run)(int argc, const char* const* argv, const SignalWatcher& signals));

}  // namespace engine
