#include "runtime/checkpoint/manifest.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/checkpoint/checksum.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/checkpoint/safetensors.hpp"
#include "runtime/checkpoint/safetensors_header.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr int kVersion = 1;
constexpr std::int64_t kMaxManifestBytes = std::int64_t{16} << 20;
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;

nlohmann::json manifest_body(const Manifest& manifest) {
  nlohmann::json files = nlohmann::json::object();
  for (const auto& [name, file] : manifest.files) {
    files[name] = {{"bytes", file.bytes}, {kChecksumName, file.checksum}};
    if (!file.tensors.empty()) files[name]["tensors"] = file.tensors;
  }
  return {{"format", "plimsoll-checkpoint"}, {"version", kVersion}, {"step", manifest.step}, {"files", files}};
}

std::string spelled(const nlohmann::json& body) { return body.dump(1) + "\n"; }

Manifest read_manifest(const std::filesystem::path& path) {
  const std::string where = path.string();
  const std::string written = read_text_file(path, Links::Refuse, kMaxManifestBytes);
  nlohmann::json body = parse_json(written, where);
  require(body.is_object() && body.contains(kChecksumName), ErrorKind::BadData, "{}: has no checksum", where);
  // Byte for byte, so that damage to white space shows as well.
  require(written == spelled(body), ErrorKind::BadData, "{}: is not spelled as it was written", where);
  const nlohmann::json stated = body[kChecksumName];
  body.erase(kChecksumName);
  const std::string text = body.dump();
  require(stated == checksum_of(text.data(), text.size()), ErrorKind::BadData, "{}: does not match its checksum",
          where);
  require(body.value("version", 0) == kVersion, ErrorKind::BadData, "{}: is of another version than {}", where,
          kVersion);
  Manifest manifest;
  manifest.step = body.at("step").get<std::int64_t>();
  for (const auto& [name, entry] : body.at("files").items()) {
    require(is_basename(name), ErrorKind::BadData, "{}: names the file {}; only files of the same folder are allowed",
            where, shown_name(name));
    WrittenFile& file = manifest.files[name];
    file.bytes = entry.at("bytes").get<std::int64_t>();
    file.checksum = entry.at(kChecksumName).get<std::string>();
    file.tensors = entry.value("tensors", file.tensors);
  }
  return manifest;
}

std::string checksum_of_range(const File& file, std::int64_t begin, std::int64_t bytes) {
  Checksum sum;
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(bytes, kPieceBytes)));
  for (std::int64_t done = 0; done < bytes; done += kPieceBytes) {
    const std::int64_t piece = std::min(kPieceBytes, bytes - done);
    file.read_at(buffer.data(), piece, begin + done);
    sum.add(buffer.data(), static_cast<std::size_t>(piece));
  }
  return sum.hex();
}

// Fails for a file whose checksum is wrong, with as narrow a reason as can be found.
[[noreturn]] void fail_damaged(const File& file, const WrittenFile& expected) {
  const std::string where = file.path().string();
  if (!expected.tensors.empty()) {
    const SafetensorsFile content = SafetensorsFile::open(file.path(), Links::Refuse);
    for (const auto& [name, sum] : expected.tensors) {
      const SafetensorsTensor& tensor = content.tensor(name);
      require(checksum_of_range(file, tensor.begin, tensor.bytes) == sum, ErrorKind::BadData,
              "{}: tensor {} does not match its checksum", where, shown_name(name));
    }
    fail(ErrorKind::BadData, "{}: its header does not match its checksum", where);
  }
  fail(ErrorKind::BadData, "{}: does not match its checksum", where);
}

void verify(const std::filesystem::path& folder, std::int64_t step) {
  const Manifest manifest = read_manifest(folder / kManifestFile);
  require(manifest.step == step, ErrorKind::BadData, "{}: belongs to step {}, not {}",
          (folder / kManifestFile).string(), manifest.step, step);
  for (const auto& [name, expected] : manifest.files) {
    const File file = File::open_regular(folder / name, Links::Refuse);
    require(file.size() == expected.bytes, ErrorKind::BadData, "{}: has {} bytes, the manifest says {}",
            file.path().string(), file.size(), expected.bytes);
    if (checksum_of_range(file, 0, file.size()) != expected.checksum) fail_damaged(file, expected);
  }
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  nlohmann::json body = manifest_body(manifest);
  const std::string text = body.dump();
  body[kChecksumName] = checksum_of(text.data(), text.size());
  return spelled(body);
}

std::optional<std::string> checkpoint_fault(const std::filesystem::path& folder, std::int64_t step) {
  // A damaged checkpoint is an answer here: an older one may be whole.
  try {
    verify(folder, step);
  } catch (const Error& error) {
    return error.what();
  } catch (const nlohmann::json::exception& error) {
    return fmt::format("{}: {:.200}", (folder / kManifestFile).string(), error.what());
  }
  return std::nullopt;
}

}  // namespace plimsoll
