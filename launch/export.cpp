#include "launch/export.hpp"

#include <cstring>
#include <nlohmann/json.hpp>

#include "launch/programs.hpp"
#include "launch/run_files.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/checkpoint/safetensors_writer.hpp"
#include "runtime/checkpoint/weights.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface.hpp"
#include "runtime/ops/op.hpp"
#include "runtime/tensor/convert.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// A tensor as `dtype`: rounded where it is stored in more.
TensorSource stored_tensor(const HuggingFaceWeights& weights, const std::string& name, DType dtype) {
  const TensorSpec stored = weights.spec(name);
  const auto read = [&weights, name, from = stored.dtype, dtype](std::int64_t offset, std::span<std::byte> out) {
    const std::int64_t first = offset / dtype_bytes(dtype), count = std::ssize(out) / dtype_bytes(dtype);
    if (from == dtype) return weights.read_elements(name, first, count, dtype, out.data());
    std::vector<std::byte> wide(static_cast<std::size_t>(count * dtype_bytes(wide_dtype(dtype))));
    weights.read_elements(name, first, count, wide_dtype(dtype), wide.data());
    convert_elements(wide_dtype(dtype), wide.data(), dtype, out.data(), count);
  };
  return {name, {stored.shape, dtype}, nullptr, read};
}

TensorSource zero_tensor(const ModelTensor& tensor, DType dtype) {
  return {tensor.name, {tensor.shape, dtype}, nullptr, [](std::int64_t, std::span<std::byte> out) {
            std::memset(out.data(), 0, out.size());
          }};
}

// Those of the config.json that is exported, else the tokenizer's. Without them transformers assumes ids of its own
// (50256 for GPT-2), which the vocabulary may not have.
void add_token_ids(nlohmann::json& config, const nlohmann::json& source, const fs::path& folder) {
  nlohmann::json end;
  if (has_tokenizer(folder.string())) {
    if (const auto id = load_tokenizer(folder.string())->end_of_document()) end = *id;
  }
  for (const char* key : {"bos_token_id", "eos_token_id"}) config[key] = source.value(key, end);
}

}  // namespace

void export_run(const fs::path& from, const fs::path& to) {
  const fs::path folder = weights_folder(from);
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder);
  const std::vector<std::string> names = weights.parameter_names();
  require(!names.empty(), ErrorKind::BadData, "{}: holds no parameters", folder.string());
  const nlohmann::json source = read_json_file(folder / "config.json");
  const auto said = huggingface_dtype(source);
  const DType dtype = said.value_or(weights.spec(names.front()).dtype);
  ModelConfig model = model_from_huggingface_folder(folder);
  std::vector<TensorSource> tensors;
  for (const std::string& name : names) tensors.push_back(stored_tensor(weights, name, dtype));
  if (model.family == ModelFamily::Gpt2 && !model.bias) {
    model.bias = true;
    for (const ModelTensor& tensor : model_tensors(model)) {
      if (!weights.contains(tensor.name)) tensors.push_back(zero_tensor(tensor, dtype));
    }
  }
  nlohmann::json config = model_to_huggingface(model, dtype);
  const std::vector<std::string> gaps = huggingface_gaps(config);
  require(gaps.empty(), ErrorKind::Config, "transformers would compute another function of this model: {}",
          join(gaps, "; "));
  add_token_ids(config, source, folder);
  require(!fs::exists(to / "model.safetensors"), ErrorKind::Usage, "{}: holds a model already", to.string());
  std::error_code error;
  fs::create_directories(to, error);
  require(!error, ErrorKind::CheckpointIo, "{}: cannot be made: {}", to.string(), error.message());
  write_safetensors(to / "model.safetensors", tensors);
  replace_file(to / "config.json", config.dump(2) + "\n");
  if (has_tokenizer(folder.string())) copy_tokenizer(folder.string(), to.string());
}

}  // namespace plimsoll
