// Standard output as the command line contract wants it: unbuffered, and honest about failures.
#pragma once

#include <string_view>

namespace engine {

// Standard output was closed by its reader: the run ends, without a message.
struct BrokenPipe {};

// Call it first in main: gives descriptors 0 to 2 that are closed a place that can be neither read
// nor written, so that no file opened later is taken for a standard stream.
void reserve_standard_streams();

// Writes all of `text` to standard output. Throws BrokenPipe, or Error{kIo} (a full disk, say).
// SIGPIPE must be ignored.
void write_stdout(std::string_view text);

// One line on stderr, without allocating: "error: …", coloured on a terminal unless NO_COLOR is
// set.
void print_error(std::string_view message);
// One line on stderr as it is.
void print_note(std::string_view message);

// Standard error is a terminal, so that a progress bar makes sense.
bool stderr_is_terminal();

}  // namespace engine
