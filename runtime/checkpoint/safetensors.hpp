#pragma once
// Reading safetensors files (https://huggingface.co/docs/safetensors): 8 bytes header length (little endian), a JSON
// header, then the tensors without gaps. The file is not trusted: every rule of the format is checked when it is
// opened, within 64 MiB of memory, and a violation is Error(BadData) naming file, tensor and rule.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/file.hpp"
#include "runtime/tensor/spec.hpp"

namespace plimsoll {

struct SafetensorsTensor {
  std::string_view stored_dtype;  // as the file spells it: "F32", "BF16", "I8" …
  std::optional<DType> dtype;     // nullopt: a type that can be listed but not read
  Shape shape;
  std::int64_t begin = 0;  // offset in the file, bytes
  std::int64_t bytes = 0;
};

using SafetensorsIndex = std::map<std::string, SafetensorsTensor, std::less<>>;

class SafetensorsFile {
 public:
  // Reads and checks the header. MissingInput when there is no such file.
  static SafetensorsFile open(const std::filesystem::path& path, Links links = Links::Follow);

  const std::filesystem::path& path() const { return file_.path(); }
  const SafetensorsIndex& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  // BadData naming file and tensor when there is none, or (spec) when its type cannot be read.
  const SafetensorsTensor& tensor(std::string_view name) const;
  TensorSpec spec(std::string_view name) const;

  // The tensor's bytes as stored; `bytes` must be its size. Reading is safe from several threads.
  void read(std::string_view name, void* out, std::int64_t bytes) const;
  // Elements [first, first + count) in row-major order, as `type`: f32 and f64 take any floating type, every other type
  // only itself. `out` holds count elements.
  void read_elements(std::string_view name, std::int64_t first, std::int64_t count, DType type, void* out) const;
  // The whole tensor into `out`, whose shape must be the stored one.
  void read_into(std::string_view name, const View& out) const;
  std::vector<float> read_floats(std::string_view name) const;

 private:
  SafetensorsFile(File file, SafetensorsIndex tensors, std::map<std::string, std::string> metadata);
  File file_;
  SafetensorsIndex tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace plimsoll
