// What this process may use of the machine: processors and memory, within its affinity, its control
// group (v1 or v2) and its resource limits. Reads /proc and /sys; a file that is missing or
// unreadable sets no limit. Safe from any thread.
#pragma once

#include <cstddef>
#include <string>

#include "kernels/backend.h"

namespace engine::cpu {

// Bytes that can still be allocated (MemAvailable, what the control group leaves counting its
// reclaimable page cache, what RLIMIT_AS leaves) and the smallest of the corresponding totals.
MemoryInfo host_memory();

// Bytes of this process that are backed by memory now.
std::size_t resident_bytes();

// Bytes of the largest cache that a processor reads through; 32 MiB where the system doesn't say.
std::size_t last_level_cache_bytes();

// The processor's name as the kernel reports it, or its architecture.
std::string processor_name();

}  // namespace engine::cpu
