#include "engine/cli/device_choice.h"

#include <charconv>
#include <vector>

#include "kernels/core/check.h"

namespace engine {
namespace {

// The N of "cuda:N", 0 for "cuda".
int cuda_index(const std::string& flag) {
  if (flag == "cuda") return 0;
  int index = -1;
  const char* begin = flag.data() + 5;
  const char* end = flag.data() + flag.size();
  const auto [stop, error] = std::from_chars(begin, end, index);
  ENGINE_CHECK(begin != end && stop == end && error == std::errc() && index >= 0, ErrorKind::kUsage,
               "--device: expected auto, cpu, cuda or cuda:N, found '", flag, "'");
  return index;
}

}  // namespace

DeviceChoice choose_device(const std::string& flag) {
  if (flag == "cpu") return {{DeviceKind::kCpu, 0}, "asked for"};
  const bool automatic = flag == "auto";
  ENGINE_CHECK(automatic || flag == "cuda" || flag.starts_with("cuda:"), ErrorKind::kUsage,
               "--device: expected auto, cpu, cuda or cuda:N, found '", flag, "'");
  const int wanted = automatic ? -1 : cuda_index(flag);

  std::string problem;
  const std::vector<DeviceInfo> devices = list_devices(&problem);
  int count = 0;
  for (const DeviceInfo& info : devices) {
    if (info.device.kind != DeviceKind::kCuda) continue;
    ++count;
    if (!automatic && info.device.index != wanted) continue;
    if (info.problem.empty()) {
      return {info.device, automatic ? "the first usable CUDA device" : "asked for"};
    }
    problem = info.problem;
  }
  if (automatic) return {{DeviceKind::kCpu, 0}, "no usable CUDA device: " + problem};
  if (problem.empty()) {
    problem = concat("there is no such device: ", count, " CUDA device", count == 1 ? "" : "s");
  }
  fail(ErrorKind::kDevice, "--device ", flag, ": ", problem);
}

DType choose_dtype(const std::string& flag, DType stored, Device device) {
  if (flag == "f32") return DType::kF32;
  if (flag == "f16") return DType::kF16;
  if (flag == "bf16") return DType::kBF16;
  ENGINE_CHECK(flag == "auto", ErrorKind::kUsage,
               "--dtype: expected auto, bf16, f16 or f32, found '", flag, "'");
  if (stored == DType::kF32 && device.kind == DeviceKind::kCuda) return DType::kBF16;
  return stored;
}

}  // namespace engine
