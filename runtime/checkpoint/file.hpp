#pragma once
// A POSIX file whose every result is checked. Reading uses pread, not mmap: a file that shrinks is an error, not
// SIGBUS. Failures throw Error naming the path, the call and its cause: MissingInput (not there), BadData (cannot be
// read), CheckpointIo (cannot be written).

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace plimsoll {

// What to do when the last part of a path is a symbolic link. Names inside a checkpoint are opened with Refuse.
enum class Links { Follow, Refuse };

class File {
 public:
  // For reading. Anything but a regular file is refused: a FIFO would block, a device never ends.
  static File open_regular(const std::filesystem::path& path, Links links = Links::Follow);
  // For writing; it must not exist yet.
  static File create_new(const std::filesystem::path& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::filesystem::path& path() const { return path_; }
  // Bytes at the time of opening.
  std::int64_t size() const { return size_; }
  // Exactly `bytes` bytes from `offset`; safe from several threads at once.
  void read_at(void* out, std::int64_t bytes, std::int64_t offset) const;

  // Claims the disk space now, so that a full disk shows before anything is written.
  void reserve(std::int64_t bytes);
  void write(const void* data, std::int64_t bytes);
  // Synchronises the data to the disk and closes; both are checked.
  void commit();

 private:
  File(std::filesystem::path path, int descriptor, std::int64_t size);
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
};

// fsync of a directory: makes the creation and renaming of its entries durable.
void sync_directory(const std::filesystem::path& directory);
// rename(2), checked.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
// Writes `text` beside `path`, synchronises it and renames it over `path`; what fails leaves nothing
// beside it.
void replace_file(const std::filesystem::path& path, std::string_view text);
// True for a name without a folder in it: not empty, not "." or "..", no '/', no NUL.
bool is_basename(std::string_view name);

}  // namespace plimsoll
