#include "engine/version.h"

#include <string>

namespace engine {

std::string version_text() {
  const BuildInfo& info = build_info();
  const std::string cuda_version = info.cuda_version;
  std::string text = std::string("engine ") + info.version;
  text += std::string("\ncommit: ") + info.commit;
  if (cuda_version.empty()) {
    text += "\nCUDA: not built";
  } else {
    text += "\nCUDA: " + cuda_version + ", architectures " + info.cuda_architectures;
  }
  text += std::string("\nbuild type: ") + info.build_type;
  if (info.sanitized) {
    text += " with sanitizers";
  }
  return text;
}

}  // namespace engine
