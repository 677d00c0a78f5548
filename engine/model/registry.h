// Which graph serves which model_type.
#pragma once

#include <memory>

#include "engine/model/decoder.h"

namespace engine {

// The unbound decoder for config.model_type. Throws Error{kUnsupported} naming the type and the
// known ones.
std::unique_ptr<Decoder> make_decoder(const ModelConfig& config);

}  // namespace engine
