#pragma once
// The config.json of a Hugging Face model folder.

#include <string>

#include "runtime/model/config.hpp"

namespace plimsoll {

// The model of folder/config.json, with `from` set. model_type: gpt2, llama, qwen2, qwen3. Unresolved values stay
// `auto`. Throws Error(MissingInput) without the file, Error(BadData) for malformed JSON, Error(Config) for what cannot
// be honoured.
ModelConfig read_hugging_face_config(const std::string& folder);

}  // namespace plimsoll
