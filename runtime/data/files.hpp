#pragma once
// Files of the data folder. Input is read at offsets with pread, never mapped: a file that shrinks or fails during a
// run gives an Error, not a signal. Output appears under its name only when it is complete.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace plimsoll {

// Owns a file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }
  int release();

 private:
  int fd_;
};

// A regular file open for reading. read_at may be called from several threads.
class InputFile {
 public:
  // MissingInput when it is absent, unreadable or no regular file.
  static InputFile open(const std::string& path);
  const std::string& path() const { return path_; }
  std::int64_t size() const { return size_; }  // bytes when it was opened
  // Fills `out` from byte `offset`; BadData naming file and offset when the bytes are not there (any more).
  void read_at(std::int64_t offset, std::span<std::byte> out) const;

 private:
  InputFile(std::string path, FileDescriptor fd, std::int64_t size)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size) {}
  std::string path_;
  FileDescriptor fd_;
  std::int64_t size_;
};

// Writes `<path>.partial` and renames it to `path` in commit(). A partial file left by a killed process is overwritten;
// one that a live process is writing is an error. All failures are CheckpointIo (the exit code for output errors).
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  OutputFile(OutputFile&&) = default;
  ~OutputFile();  // removes the partial file unless committed
  void write(std::span<const std::byte> bytes);
  std::int64_t written() const { return written_; }
  void sync();    // makes the content durable
  void commit();  // sync, rename, sync of the folder

 private:
  std::string path_;
  std::string partial_;
  FileDescriptor fd_;
  std::int64_t written_ = 0;
};

// The whole of a small file; BadData when it is longer than `limit_bytes`.
std::string read_text_file(const std::string& path, std::int64_t limit_bytes);
// Replaces `path` atomically by `content`.
void write_file(const std::string& path, std::string_view content);
bool is_regular_file(const std::string& path);

}  // namespace plimsoll
