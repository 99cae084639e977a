#include "runtime/checkpoint/weights.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "runtime/checkpoint/json_file.hpp"
#include "runtime/checkpoint/safetensors_header.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kMaxIndexBytes = std::int64_t{8} << 20;
constexpr std::array<std::string_view, 2> kPrefixes{"transformer.", "model."};
constexpr std::array<std::string_view, 3> kBuffers{".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};

bool is_buffer(std::string_view name) {
  return std::any_of(kBuffers.begin(), kBuffers.end(), [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace

HuggingFaceWeights HuggingFaceWeights::open(const std::filesystem::path& folder) {
  HuggingFaceWeights weights;
  weights.folder_ = folder;
  const std::filesystem::path single = folder / "model.safetensors";
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    weights.files_.push_back(SafetensorsFile::open(single));
    for (const auto& [name, tensor] : weights.files_.front().tensors()) weights.file_of_.emplace(name, 0);
  } else {
    require(std::filesystem::exists(index, ignored), ErrorKind::MissingInput,
            "{}: has neither model.safetensors nor model.safetensors.index.json{}", folder.string(),
            std::filesystem::exists(folder / "pytorch_model.bin", ignored)
                ? "; pytorch_model.bin cannot be read, save the model as safetensors"
                : "");
    weights.open_shards(index);
  }
  return weights;
}

void HuggingFaceWeights::open_shards(const std::filesystem::path& index) {
  const nlohmann::json content = read_json_file(index, Links::Follow, kMaxIndexBytes);
  const std::string where = index.string();
  require(content.is_object() && content.contains("weight_map") && content["weight_map"].is_object(),
          ErrorKind::BadData, "{}: has no object weight_map", where);
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, file] : content["weight_map"].items()) {
    require(file.is_string(), ErrorKind::BadData, "{}: the file of tensor {} is not a string", where, shown_name(name));
    const auto& shard = file.get_ref<const std::string&>();
    require(is_basename(shard), ErrorKind::BadData, "{}: tensor {} names {}; only files of the same folder are allowed",
            where, shown_name(name), shown_name(shard));
    const auto [place, is_new] = opened.emplace(shard, files_.size());
    if (is_new) files_.push_back(SafetensorsFile::open(folder_ / shard));
    require(files_[place->second].contains(name), ErrorKind::BadData, "{}: has no tensor {}, which {} promises",
            (folder_ / shard).string(), shown_name(name), index.filename().string());
    file_of_.emplace(name, place->second);
  }
}

std::optional<std::string> HuggingFaceWeights::stored_name(std::string_view name) const {
  if (file_of_.find(name) != file_of_.end()) return std::string(name);
  for (const std::string_view prefix : kPrefixes) {
    if (!name.starts_with(prefix)) continue;
    const std::string_view bare = name.substr(prefix.size());
    if (file_of_.find(bare) != file_of_.end()) return std::string(bare);
  }
  for (const std::string_view prefix : kPrefixes) {
    std::string longer = std::string(prefix) + std::string(name);
    if (file_of_.contains(longer)) return longer;
  }
  return std::nullopt;
}

std::vector<std::string> HuggingFaceWeights::parameter_names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_)
    if (!is_buffer(name)) names.push_back(name);
  return names;
}

std::vector<std::string> HuggingFaceWeights::unread(std::span<const std::string> wanted) const {
  std::set<std::string> found;
  for (const std::string& name : wanted)
    if (auto stored = stored_name(name)) found.insert(*std::move(stored));
  std::vector<std::string> rest = parameter_names();
  std::erase_if(rest, [&](const std::string& name) { return found.contains(name); });
  return rest;
}

std::int64_t HuggingFaceWeights::parameter_elements() const {
  std::int64_t sum = 0;
  for (const std::string& name : parameter_names()) sum += spec(name).elements();
  return sum;
}

std::pair<const SafetensorsFile*, std::string> HuggingFaceWeights::find(std::string_view name) const {
  std::optional<std::string> stored = stored_name(name);
  require(stored.has_value(), ErrorKind::BadData, "{}: has no tensor {}", folder_.string(), shown_name(name));
  const SafetensorsFile& file = files_[file_of_.find(*stored)->second];
  return {&file, *std::move(stored)};
}

TensorSpec HuggingFaceWeights::spec(std::string_view name) const {
  const auto [file, stored] = find(name);
  return file->spec(stored);
}

void HuggingFaceWeights::read_into(std::string_view name, const View& out) const {
  const auto [file, stored] = find(name);
  file->read_into(stored, out);
}

void HuggingFaceWeights::read_elements(std::string_view name, std::int64_t first, std::int64_t count, DType type,
                                       void* out) const {
  const auto [file, stored] = find(name);
  file->read_elements(stored, first, count, type, out);
}

}  // namespace plimsoll
