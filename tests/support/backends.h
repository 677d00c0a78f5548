// Every backend that this process can use.
//
// ENGINE_TEST_DEVICES=cpu or =cuda leaves the other kind out; ENGINE_TEST_QUICK=1 leaves out the
// large cases (for sanitizers). What is left out is always said.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace engine::test {

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Empty, or why the instruction set that ENGINE_ISA asks for is not tested: this machine lacks it,
// or, where ENGINE_TEST_HIDDEN_ISA is set, takes it by itself and is tested without asking.
inline std::string skipped_isa() {
  const std::string isa = environment("ENGINE_ISA");
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const std::string own = avx512 ? "avx512" : avx2 ? "avx2" : "portable";
  const bool missing = (isa == "avx2" && !avx2) || (isa == "avx512" && !avx512);
#else
  const std::string own = "portable";
  const bool missing = isa == "avx2" || isa == "avx512";
#endif
  if (missing) return "this machine has no " + isa;
  const bool hidden_only = !environment("ENGINE_TEST_HIDDEN_ISA").empty();
  return hidden_only && isa == own ? "this machine takes " + isa + " by itself" : "";
}

inline std::vector<std::unique_ptr<Backend>> make_backends() {
  std::vector<std::unique_ptr<Backend>> made;
  const std::string wanted = environment("ENGINE_TEST_DEVICES");
  if (wanted != "cuda") {
    if (const std::string reason = skipped_isa(); !reason.empty()) {
      std::cout << "skipped: CPU: " << reason << "\n";
    } else {
      made.push_back(make_backend({DeviceKind::kCpu, 0}, {}));
    }
  }
  if (wanted != "cpu") {
    std::string problem;
    for (const DeviceInfo& info : list_devices(&problem)) {
      if (info.device.kind != DeviceKind::kCuda) continue;
      if (info.problem.empty()) {
        made.push_back(make_backend(info.device, {}));
        problem.clear();
        break;
      }
      problem = info.problem;
    }
    if (!problem.empty()) std::cout << "skipped: CUDA: " << problem << "\n";
  }
  for (const auto& backend : made) std::cout << "backend: " << backend->description() << "\n";
  return made;
}

inline std::vector<std::unique_ptr<Backend>>& backends() {
  static std::vector<std::unique_ptr<Backend>> made = make_backends();
  return made;
}

// Runs `body(backend)` on each of them; a failure names the backend.
template <typename Body>
void on_every_backend(Body&& body) {
  for (const auto& backend : backends()) {
    const std::string device = to_string(backend->device());
    CAPTURE(device);
    body(*backend);
  }
}

// Whether this run is to be short, as under a sanitizer.
inline bool is_quick_run() { return environment("ENGINE_TEST_QUICK") == "1"; }

// Whether a problem marked large is run on `backend`: not by the CPU's portable code.
inline bool runs_large_cases(const Backend& backend) {
  if (is_quick_run()) return false;
  return backend.device().kind != DeviceKind::kCpu || cpu_isa_name() != "portable";
}

// Whether `backend` runs `problem` in `dtype`: large ones in every type where they are quick, else
// in the type that real models come in.
template <typename Case>
bool runs_in(const Backend& backend, const Case& problem, DType dtype) {
  return !problem.large || backend.device().kind != DeviceKind::kCpu || dtype == DType::kBF16;
}

// `cases` as `backend` runs them; says how many it leaves out.
template <typename Cases>
auto cases_for(const Backend& backend, const Cases& cases) {
  std::vector<std::decay_t<decltype(*cases.begin())>> chosen;
  for (const auto& problem : cases) {
    if (!problem.large || runs_large_cases(backend)) chosen.push_back(problem);
  }
  if (chosen.size() < cases.size()) {
    std::cout << "left out: " << cases.size() - chosen.size() << " large cases on "
              << to_string(backend.device()) << "\n";
  }
  return chosen;
}

}  // namespace engine::test
