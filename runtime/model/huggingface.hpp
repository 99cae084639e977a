#pragma once
// Between ModelConfig and the config.json of Hugging Face transformers (model types gpt2, llama, qwen2, qwen3), in its
// newer form (rope_parameters, dtype) and its older one (rope_theta, rope_scaling, torch_dtype). A key that changes
// what the model computes is honoured or refused by name; a key that cannot be judged is named in a warning.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/config.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// The model that `config` describes, with every size filled in. Error(Config) lists each key, with its value, that
// cannot be honoured; messages begin with `name`.
ModelConfig model_from_huggingface(const nlohmann::json& config, std::string_view name);
// The same for the config.json of a folder. MissingInput when there is none, BadData when it is not JSON.
ModelConfig model_from_huggingface_folder(const std::filesystem::path& folder);

// The id whose row of the token embedding transformers gives no gradient through the lookup (torch's padding_idx):
// pad_token_id of llama, qwen2 and qwen3 where it is in the vocabulary, a negative one counted from its end. The model
// trained here has no such row. gpt2 has none there either. `config` is one that model_from_huggingface takes.
std::optional<std::int64_t> padding_id(const nlohmann::json& config);

// The config.json (newer form) of a resolved model whose weights are `dtype`. What transformers cannot
// express goes into an object "plimsoll", which model_from_huggingface honours and transformers ignores: reading back
// gives the same model, but for `preset` and `from`.
nlohmann::json model_to_huggingface(const ModelConfig& model, DType dtype = DType::f32);
// The floating type that `config` names for its weights; nullopt where it names none.
std::optional<DType> huggingface_dtype(const nlohmann::json& config);
// The fields by which transformers would compute another function than `config` means; empty: it can be exported.
std::vector<std::string> huggingface_gaps(const nlohmann::json& config);

}  // namespace plimsoll
