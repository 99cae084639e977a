#include "runtime/checkpoint/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// Linux moves at most 2 GiB per call; smaller pieces also keep a signal's delay short.
constexpr std::int64_t kPieceBytes = std::int64_t{64} << 20;

std::string cause(int error) { return std::generic_category().message(error); }

std::string_view kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

File::File(std::filesystem::path path, int descriptor, std::int64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File File::open_regular(const std::filesystem::path& path, Links links) {
  // O_NONBLOCK: opening a FIFO without a writer would otherwise wait for ever.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (links == Links::Refuse ? O_NOFOLLOW : 0);
  const int descriptor = ::open(path.c_str(), flags);
  const int error = errno;
  if (descriptor < 0 && error == ELOOP && links == Links::Refuse)
    fail(ErrorKind::BadData, "{}: is a symbolic link; a file named by another file must be a regular file",
         path.string());
  require(descriptor >= 0, error == ENOENT || error == ENOTDIR ? ErrorKind::MissingInput : ErrorKind::BadData,
          "{}: cannot be opened: {}", path.string(), cause(error));
  File file(path, descriptor, 0);
  struct stat status {};
  const bool known = ::fstat(descriptor, &status) == 0;
  require(known, ErrorKind::BadData, "{}: fstat: {}", path.string(), cause(errno));
  require(S_ISREG(status.st_mode), ErrorKind::BadData, "{}: is {}, not a regular file", path.string(),
          kind_of(status.st_mode));
  file.size_ = status.st_size;
  return file;
}

File File::create_new(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  require(descriptor >= 0, ErrorKind::CheckpointIo, "{}: cannot be created: {}", path.string(), cause(errno));
  return {path, descriptor, 0};
}

void File::read_at(void* out, std::int64_t bytes, std::int64_t offset) const {
  auto* to = static_cast<std::byte*>(out);
  while (bytes > 0) {
    const auto piece = static_cast<std::size_t>(std::min(bytes, kPieceBytes));
    const ssize_t got = ::pread(descriptor_, to, piece, offset);
    if (got < 0 && errno == EINTR) continue;
    require(got >= 0, ErrorKind::BadData, "{}: reading at offset {}: {}", path_.string(), offset, cause(errno));
    require(got > 0, ErrorKind::BadData, "{}: ends at offset {}, {} bytes too early", path_.string(), offset, bytes);
    to += got;
    offset += got;
    bytes -= got;
  }
}

void File::reserve(std::int64_t bytes) {
  if (bytes <= 0) return;
  int error = EINTR;
  while (error == EINTR) error = ::posix_fallocate(descriptor_, 0, bytes);
  // Some file systems cannot reserve; then a full disk shows in write().
  if (error == EINVAL || error == EOPNOTSUPP) return;
  require(error == 0, ErrorKind::CheckpointIo, "{}: cannot reserve {} bytes: {}", path_.string(), bytes, cause(error));
}

void File::write(const void* data, std::int64_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t put = ::write(descriptor_, from, static_cast<std::size_t>(std::min(bytes, kPieceBytes)));
    if (put < 0 && errno == EINTR) continue;
    require(put > 0, ErrorKind::CheckpointIo, "{}: writing {} bytes: {}", path_.string(), bytes, cause(errno));
    from += put;
    bytes -= put;
    size_ += put;
  }
}

void File::commit() {
  const bool on_disk = ::fdatasync(descriptor_) == 0;
  require(on_disk, ErrorKind::CheckpointIo, "{}: fdatasync: {}", path_.string(), cause(errno));
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  require(closed, ErrorKind::CheckpointIo, "{}: close: {}", path_.string(), cause(errno));
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  require(descriptor >= 0, ErrorKind::CheckpointIo, "{}: cannot be opened: {}", directory.string(), cause(errno));
  const int error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  require(error == 0, ErrorKind::CheckpointIo, "{}: fsync: {}", directory.string(), cause(error));
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  const bool renamed = std::rename(from.c_str(), to.c_str()) == 0;
  require(renamed, ErrorKind::CheckpointIo, "{}: cannot be renamed to {}: {}", from.string(), to.string(),
          cause(errno));
}

void replace_file(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path beside = path;
  beside += fmt::format(".tmp.{}", ::getpid());
  ::unlink(beside.c_str());
  try {
    File file = File::create_new(beside);
    file.write(text.data(), static_cast<std::int64_t>(text.size()));
    file.commit();
    rename_path(beside, path);
  } catch (...) {
    ::unlink(beside.c_str());
    throw;
  }
  sync_directory(path.parent_path().empty() ? "." : path.parent_path());
}

bool is_basename(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

}  // namespace plimsoll
