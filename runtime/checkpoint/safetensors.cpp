#include "runtime/checkpoint/safetensors.hpp"

#include <algorithm>
#include <utility>

#include "runtime/checkpoint/safetensors_header.hpp"
#include "runtime/core/error.hpp"
#include "runtime/tensor/convert.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kBufferElements = std::int64_t{1} << 16;

}  // namespace

SafetensorsFile::SafetensorsFile(File file, SafetensorsIndex tensors, std::map<std::string, std::string> metadata)
    : file_(std::move(file)), tensors_(std::move(tensors)), metadata_(std::move(metadata)) {}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path, Links links) {
  File file = File::open_regular(path, links);
  SafetensorsHeader header = read_safetensors_header(file);
  return {std::move(file), std::move(header.tensors), std::move(header.metadata)};
}

const SafetensorsTensor& SafetensorsFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), ErrorKind::BadData, "{}: has no tensor {}", path().string(), shown_name(name));
  return found->second;
}

TensorSpec SafetensorsFile::spec(std::string_view name) const {
  const SafetensorsTensor& t = tensor(name);
  require(t.dtype.has_value(), ErrorKind::BadData, "{}: tensor {} is stored as {}, which cannot be read",
          path().string(), shown_name(name), t.stored_dtype);
  return {t.shape, *t.dtype};
}

void SafetensorsFile::read(std::string_view name, void* out, std::int64_t bytes) const {
  const std::int64_t stored = spec(name).bytes();
  require(bytes == stored, ErrorKind::BadData, "{}: tensor {} has {} bytes, not {}", path().string(), shown_name(name),
          stored, bytes);
  file_.read_at(out, bytes, tensor(name).begin);
}

void SafetensorsFile::read_elements(std::string_view name, std::int64_t first, std::int64_t count, DType type,
                                    void* out) const {
  const TensorSpec stored = spec(name);
  require(first >= 0 && count >= 0 && first <= stored.elements() - count, ErrorKind::BadData,
          "{}: tensor {} has {} elements, not [{}, {})", path().string(), shown_name(name), stored.elements(), first,
          first + count);
  const std::int64_t width = dtype_bytes(stored.dtype);
  const std::int64_t begin = tensor(name).begin + first * width;
  if (stored.dtype == type) return file_.read_at(out, count * width, begin);
  require(is_floating(stored.dtype) && (type == DType::f32 || type == DType::f64), ErrorKind::BadData,
          "{}: tensor {} is stored as {}, which does not convert to {}", path().string(), shown_name(name),
          dtype_name(stored.dtype), dtype_name(type));
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(count, kBufferElements) * width));
  for (std::int64_t done = 0; done < count; done += kBufferElements) {
    const std::int64_t piece = std::min(kBufferElements, count - done);
    file_.read_at(buffer.data(), piece * width, begin + done * width);
    convert_elements(stored.dtype, buffer.data(), type, static_cast<std::byte*>(out) + done * dtype_bytes(type), piece);
  }
}

void SafetensorsFile::read_into(std::string_view name, const View& out) const {
  const TensorSpec stored = spec(name);
  require(stored.shape == out.spec.shape, ErrorKind::BadData, "{}: tensor {} is {}, expected {}", path().string(),
          shown_name(name), to_string(stored), to_string(out.spec));
  read_elements(name, 0, stored.elements(), out.spec.dtype, out.data);
}

std::vector<float> SafetensorsFile::read_floats(std::string_view name) const {
  const std::int64_t elements = spec(name).elements();
  std::vector<float> values(static_cast<std::size_t>(elements));
  read_elements(name, 0, elements, DType::f32, values.data());
  return values;
}

}  // namespace plimsoll
