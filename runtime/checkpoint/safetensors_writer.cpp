#include "runtime/checkpoint/safetensors_writer.hpp"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/checkpoint/checksum.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/checkpoint/safetensors_header.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;

std::vector<const TensorSource*> in_file_order(std::span<const TensorSource> tensors, const std::string& file) {
  std::vector<const TensorSource*> order;
  order.reserve(tensors.size());
  for (const TensorSource& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const TensorSource* a, const TensorSource* b) {
    const std::int64_t width_a = dtype_bytes(a->spec.dtype);
    const std::int64_t width_b = dtype_bytes(b->spec.dtype);
    return width_a != width_b ? width_a > width_b : a->name < b->name;
  });
  std::vector<std::string_view> names;
  for (const TensorSource* t : order) names.emplace_back(t->name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  require(twice == names.end(), ErrorKind::Internal, "{}: tensor {} would be written twice", file, *twice);
  return order;
}

std::string header_text(std::span<const TensorSource* const> order, const SafetensorsMetadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t offset = 0;
  for (const TensorSource* t : order) {
    const std::int64_t end = offset + t->spec.bytes();
    nlohmann::ordered_json entry;
    entry["dtype"] = stored_dtype_name(t->spec.dtype);
    entry["shape"] = std::vector<std::int64_t>(t->spec.shape.begin(), t->spec.shape.end());
    entry["data_offsets"] = {offset, end};
    header[t->name] = std::move(entry);
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

// Writes and sums up in one pass.
class SummedFile {
 public:
  explicit SummedFile(File& file) : file_(file) {}
  void write(const void* data, std::int64_t bytes) {
    sum_.add(data, static_cast<std::size_t>(bytes));
    file_.write(data, bytes);
  }
  std::string checksum() const { return sum_.hex(); }

 private:
  File& file_;
  Checksum sum_;
};

std::string write_tensor(SummedFile& file, const TensorSource& tensor, std::vector<std::byte>& buffer) {
  Checksum sum;
  const std::int64_t bytes = tensor.spec.bytes();
  for (std::int64_t offset = 0; offset < bytes; offset += kPieceBytes) {
    const auto piece = static_cast<std::size_t>(std::min(kPieceBytes, bytes - offset));
    const std::byte* from = nullptr;
    if (tensor.produce) {
      buffer.resize(static_cast<std::size_t>(kPieceBytes));
      tensor.produce(offset, std::span(buffer).first(piece));
      from = buffer.data();
    } else {
      from = static_cast<const std::byte*>(tensor.data) + offset;
    }
    sum.add(from, piece);
    file.write(from, static_cast<std::int64_t>(piece));
  }
  return sum.hex();
}

}  // namespace

WrittenFile create_safetensors(const std::filesystem::path& path, std::span<const TensorSource> tensors,
                               const SafetensorsMetadata& metadata) {
  const std::vector<const TensorSource*> order = in_file_order(tensors, path.string());
  const std::string header = header_text(order, metadata);
  const auto header_bytes = static_cast<std::uint64_t>(header.size());
  WrittenFile written;
  written.bytes = static_cast<std::int64_t>(sizeof(header_bytes) + header.size());
  for (const TensorSource* t : order) written.bytes += t->spec.bytes();

  File file = File::create_new(path);
  file.reserve(written.bytes);
  SummedFile summed(file);
  summed.write(&header_bytes, sizeof(header_bytes));
  summed.write(header.data(), static_cast<std::int64_t>(header.size()));
  std::vector<std::byte> buffer;
  for (const TensorSource* t : order) written.tensors.emplace(t->name, write_tensor(summed, *t, buffer));
  file.commit();
  written.checksum = summed.checksum();
  return written;
}

WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorSource> tensors,
                              const SafetensorsMetadata& metadata) {
  std::filesystem::path beside = path;
  beside += fmt::format(".tmp.{}", ::getpid());
  std::error_code ignored;
  std::filesystem::remove(beside, ignored);
  // A failed write must not leave a file of the full size behind.
  struct Remover {
    const std::filesystem::path& path;
    ~Remover() {
      std::error_code error;
      std::filesystem::remove(path, error);
    }
  } const remover{beside};
  WrittenFile written = create_safetensors(beside, tensors, metadata);
  rename_path(beside, path);
  sync_directory(path.parent_path().empty() ? "." : path.parent_path());
  return written;
}

}  // namespace plimsoll
