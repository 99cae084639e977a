#include "launch/export.hpp"

#include <cstring>
#include <nlohmann/json.hpp>

#include "launch/programs.hpp"
#include "launch/run_files.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/checkpoint/safetensors_writer.hpp"
#include "runtime/checkpoint/weights.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

TensorSource stored_tensor(const HuggingFaceWeights& weights, const std::string& name) {
  const TensorSpec spec = weights.spec(name);
  return {name, spec, nullptr, [&weights, name, spec](std::int64_t offset, std::span<std::byte> out) {
            const std::int64_t element = dtype_bytes(spec.dtype);
            weights.read_elements(name, offset / element, static_cast<std::int64_t>(out.size()) / element, spec.dtype,
                                  out.data());
          }};
}

TensorSource zero_tensor(const ModelTensor& tensor, DType dtype) {
  return {tensor.name, {tensor.shape, dtype}, nullptr, [](std::int64_t, std::span<std::byte> out) {
            std::memset(out.data(), 0, out.size());
          }};
}

// Without them transformers assumes ids of its own (50256 for GPT-2), which the vocabulary may not have.
void add_token_ids(nlohmann::json& config, const fs::path& folder) {
  std::optional<std::int32_t> end;
  if (has_tokenizer(folder.string())) end = load_tokenizer(folder.string())->end_of_document();
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    config[key] = nullptr;
    if (end) config[key] = *end;
  }
}

}  // namespace

void export_run(const fs::path& from, const fs::path& to) {
  const fs::path folder = weights_folder(from);
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder);
  const std::vector<std::string> names = weights.parameter_names();
  require(!names.empty(), ErrorKind::BadData, "{}: holds no parameters", folder.string());
  const DType dtype = weights.spec(names.front()).dtype;
  ModelConfig model = model_from_huggingface_folder(folder);
  std::vector<TensorSource> tensors;
  for (const std::string& name : names) tensors.push_back(stored_tensor(weights, name));
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
  add_token_ids(config, folder);
  require(!fs::exists(to / "model.safetensors"), ErrorKind::Usage, "{}: holds a model already", to.string());
  std::error_code error;
  fs::create_directories(to, error);
  require(!error, ErrorKind::CheckpointIo, "{}: cannot be made: {}", to.string(), error.message());
  write_safetensors(to / "model.safetensors", tensors);
  replace_file(to / "config.json", config.dump(2) + "\n");
  if (has_tokenizer(folder.string())) copy_tokenizer(folder.string(), to.string());
}

}  // namespace plimsoll
