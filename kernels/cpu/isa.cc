#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/check.h"

namespace engine {
namespace cpu {
namespace {

struct Isa {
  std::string_view name;
  const Kernels* kernels;  // null where this machine or this build can't run it
};

// Widest last. __builtin_cpu_supports also asks whether the operating system saves the registers.
std::vector<Isa> isas() {
  const Kernels* avx2 = nullptr;
  const Kernels* avx512 = nullptr;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    avx2 = &avx2_kernels();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      avx512 = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")
                   ? &avx512_bf16_kernels()
                   : &avx512_kernels();
    }
  }
#endif
  return {{"portable", &portable_kernels()}, {"avx2", avx2}, {"avx512", avx512}};
}

}  // namespace

const Kernels& choose_kernels() {
  const char* forced = std::getenv("ENGINE_ISA");
  const Kernels* widest = nullptr;
  for (const Isa& isa : isas()) {
    if (isa.kernels != nullptr) widest = isa.kernels;
    if (forced == nullptr || isa.name != forced) continue;
    ENGINE_CHECK(isa.kernels != nullptr, ErrorKind::kUsage, "ENGINE_ISA=", forced,
                 ": this machine does not have these instructions");
    return *isa.kernels;
  }
  ENGINE_CHECK(forced == nullptr, ErrorKind::kUsage, "ENGINE_ISA=", forced,
               ": expected portable, avx2 or avx512");
  return *widest;
}

}  // namespace cpu

std::string cpu_isa_name() { return cpu::choose_kernels().name; }

}  // namespace engine
