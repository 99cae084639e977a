#pragma once
// The weights of a run as a folder that Hugging Face transformers opens.

#include <filesystem>

namespace plimsoll {

// `from` (a run directory, its newest checkpoint, or a checkpoint folder) → `to`. Tensors keep their type, which
// config.json says as `dtype` (float64 for a run in fp64). A GPT-2 without biases is written with biases of zero: the
// same function. Token ids that begin and end a text are those of the tokenizer's end of a document, or null.
// Error(Config) naming what transformers would compute differently; Error(Usage) when `to` holds a model.
void export_run(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace plimsoll
