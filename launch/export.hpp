#pragma once
// The weights of a run as a folder that Hugging Face transformers opens.

#include <filesystem>

namespace plimsoll {

// `from` (a run directory, its newest checkpoint, or a checkpoint folder) → `to`. Tensors have the type that
// config.json says as `dtype`: that of the run's precision, to which the f32 weights of a checkpoint are rounded. A
// GPT-2 without biases is written with biases of zero: the same function. Token ids that begin and end a text are those
// of the tokenizer's end of a document, or null. Error(Config) naming what transformers would compute differently;
// Error(Usage) when `to` holds a model.
void export_run(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace plimsoll
