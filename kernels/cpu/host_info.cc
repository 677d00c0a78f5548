#include "kernels/cpu/host_info.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "kernels/core/check.h"

namespace engine {
namespace cpu {
namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

// The first word of a file as a number; nothing where it can't be read or is not one ("max").
std::optional<long long> read_number(const std::string& path) {
  std::ifstream file(path);
  long long value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

// The number after `key` in a file of "key value" lines; 0 where it is not there.
std::size_t read_field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    long long value = 0;
    if (words >> name >> value && name == key) return static_cast<std::size_t>(value);
  }
  return 0;
}

// The directories of this process's control group for `controller` and of all its ancestors,
// innermost first: limits of every level hold. v1 hierarchies are named by controller, v2 has one
// of its own, whose line names none. In a container the path may lie outside what is mounted; the
// mount's root is then the group itself.
std::vector<std::string> group_directories(const std::string& controller, bool* v2) {
  *v2 = false;
  std::string path, root;
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {  // "4:memory:/a/b" or "0::/a/b"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = concat(",", line.substr(first + 1, second - first - 1), ",");
    if (names.find(concat(",", controller, ",")) != std::string::npos) {
      path = line.substr(second + 1);
      root = "/sys/fs/cgroup/" + controller;
      *v2 = false;
      break;
    }
    if (names == ",,") {
      path = line.substr(second + 1);
      root = "/sys/fs/cgroup";
      *v2 = true;
    }
  }
  std::vector<std::string> directories;
  if (root.empty()) return directories;
  for (; path.size() > 1; path.erase(path.rfind('/'))) directories.push_back(root + path);
  directories.push_back(root);
  return directories;
}

MemoryInfo group_memory() {
  bool v2 = false;
  MemoryInfo info{kNoLimit, kNoLimit};
  for (const std::string& directory : group_directories("memory", &v2)) {
    const auto limit = read_number(directory + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto usage = read_number(directory + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
    if (!limit || !usage) continue;
    // Page cache counts as usage but gives way.
    const std::string stat = directory + "/memory.stat", prefix = v2 ? "" : "total_";
    const std::size_t cache =
        read_field(stat, prefix + "inactive_file") + read_field(stat, prefix + "active_file");
    const auto used = static_cast<std::size_t>(*usage), total = static_cast<std::size_t>(*limit);
    const std::size_t held = used - std::min(used, cache);
    info.total = std::min(info.total, total);
    info.free = std::min(info.free, total - std::min(total, held));
  }
  return info;
}

// Pages of address space (field 0) or of resident memory (field 1), in bytes.
std::size_t process_bytes(int field) {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  for (int i = 0; i <= field; ++i) file >> pages;
  return file ? pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) : 0;
}

// Whole processors that the group's quota amounts to, at least one; nothing without a quota.
std::optional<int> quota_processors() {
  bool v2 = false;
  std::optional<int> least;
  for (const std::string& directory : group_directories("cpu", &v2)) {
    std::optional<long long> quota, period;
    if (v2) {
      std::ifstream file(directory + "/cpu.max");  // "200000 100000" or "max 100000"
      long long a = 0, b = 0;
      if (file >> a >> b) quota = a, period = b;
    } else {
      quota = read_number(directory + "/cpu.cfs_quota_us");
      period = read_number(directory + "/cpu.cfs_period_us");
    }
    if (!quota || !period || *quota <= 0 || *period <= 0) continue;
    const int whole = static_cast<int>(std::clamp<long long>(*quota / *period, 1, 1 << 16));
    least = std::min(least.value_or(whole), whole);
  }
  return least;
}

// The processors this process may run on.
std::vector<int> allowed_processors() {
  std::vector<int> allowed;
  for (int count = 1024; count <= 1 << 20; count *= 2) {  // until the kernel's mask fits
    cpu_set_t* set = CPU_ALLOC(static_cast<std::size_t>(count));
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(count));
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    for (int i = 0; known && i < count; ++i) {
      if (CPU_ISSET_S(static_cast<std::size_t>(i), bytes, set)) allowed.push_back(i);
    }
    CPU_FREE(set);
    if (known) break;
  }
  return allowed;
}

}  // namespace

MemoryInfo host_memory() {
  MemoryInfo info = group_memory();
  const std::size_t total = read_field("/proc/meminfo", "MemTotal:") * 1024;
  const std::size_t available = read_field("/proc/meminfo", "MemAvailable:") * 1024;
  if (total > 0) {
    info.total = std::min(info.total, total);
    info.free = std::min(info.free, available);
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    const auto space = static_cast<std::size_t>(limit.rlim_cur);
    info.total = std::min(info.total, space);
    info.free = std::min(info.free, space - std::min(space, process_bytes(0)));
  }
  return info;
}

std::size_t resident_bytes() { return process_bytes(1); }

std::size_t last_level_cache_bytes() {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(concat("/sys/devices/system/cpu/cpu0/cache/index", index, "/size"));
    std::size_t value = 0;
    char unit = 0;
    if (!(file >> value >> unit)) continue;  // "32768K"
    largest = std::max(largest, value << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0));
  }
  return largest > 0 ? largest : std::size_t{32} << 20;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    const std::size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 < line.size()) return line.substr(colon + 2);
  }
#if defined(__x86_64__)
  return "x86-64";
#elif defined(__aarch64__)
  return "AArch64";
#else
  return "CPU";
#endif
}

}  // namespace cpu

int default_thread_count() {
  const std::vector<int> processors = cpu::allowed_processors();
  std::set<std::pair<long long, long long>> cores;  // (package, core)
  for (const int processor : processors) {
    const std::string topology =
        "/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/topology/";
    const auto package = cpu::read_number(topology + "physical_package_id");
    const auto core = cpu::read_number(topology + "core_id");
    // Without topology every processor counts as a core of its own.
    cores.insert(core ? std::pair{package.value_or(0), *core}
                      : std::pair{-1LL, static_cast<long long>(processor)});
  }
  const int available = std::max(static_cast<int>(cores.size()), 1);
  return std::min(available, cpu::quota_processors().value_or(available));
}

}  // namespace engine
