#include "runtime/data/files.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "runtime/core/error.hpp"

namespace plimsoll {

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int FileDescriptor::release() { return std::exchange(fd_, -1); }

InputFile InputFile::open(const std::string& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not block
  require(fd.get() >= 0, ErrorKind::MissingInput, "{}: cannot be opened: {}", path, std::strerror(errno));
  struct stat info {};
  const bool known = ::fstat(fd.get(), &info) == 0;
  require(known, ErrorKind::MissingInput, "{}: {}", path, std::strerror(errno));
  require(S_ISREG(info.st_mode), ErrorKind::MissingInput, "{}: is not a regular file", path);
  return {path, std::move(fd), info.st_size};
}

void InputFile::read_at(std::int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_.get(), out.data(), out.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    require(n >= 0, ErrorKind::BadData, "{}: reading at byte {} failed: {}", path_, offset, std::strerror(errno));
    if (n == 0) {
      struct stat info {};
      const std::int64_t now = ::fstat(fd_.get(), &info) == 0 ? info.st_size : -1;
      fail(ErrorKind::BadData, "{}: ends before byte {}: it had {} bytes when it was opened and has {} now", path_,
           offset + static_cast<std::int64_t>(out.size()), size_, now);
    }
    out = out.subspan(static_cast<std::size_t>(n));
    offset += n;
  }
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)), partial_(path_ + ".partial") {
  fd_ = FileDescriptor(::open(partial_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  require(fd_.get() >= 0, ErrorKind::CheckpointIo, "{}: cannot be written: {}", partial_, std::strerror(errno));
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    require(error != EWOULDBLOCK, ErrorKind::CheckpointIo, "{}: another process is writing it", partial_);
    // Some network file systems have no locks; the lock only guards against a second writer.
  }
  const bool empty = ::ftruncate(fd_.get(), 0) == 0;
  require(empty, ErrorKind::CheckpointIo, "{}: {}", partial_, std::strerror(errno));
}

OutputFile::~OutputFile() {
  if (fd_.get() >= 0) ::unlink(partial_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    require(n > 0, ErrorKind::CheckpointIo, "{}: writing at byte {} failed: {}", partial_, written_,
            std::strerror(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    written_ += n;
  }
}

void OutputFile::sync() {
  const bool on_disk = ::fsync(fd_.get()) == 0;
  require(on_disk, ErrorKind::CheckpointIo, "{}: fsync: {}", partial_, std::strerror(errno));
}

void OutputFile::commit() {
  sync();
  const bool renamed = std::rename(partial_.c_str(), path_.c_str()) == 0;
  require(renamed, ErrorKind::CheckpointIo, "{}: cannot be renamed to {}: {}", partial_, path_, std::strerror(errno));
  fd_ = FileDescriptor();
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  const FileDescriptor folder(::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) ::fsync(folder.get());
}

std::string read_text_file(const std::string& path, std::int64_t limit_bytes) {
  const InputFile file = InputFile::open(path);
  require(file.size() <= limit_bytes, ErrorKind::BadData, "{}: has {} bytes, more than the {} such a file may have",
          path, file.size(), limit_bytes);
  std::string content(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(content)));
  return content;
}

void write_file(const std::string& path, std::string_view content) {
  OutputFile file(path);
  file.write(std::as_bytes(std::span(content)));
  file.commit();
}

bool is_regular_file(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace plimsoll
