#pragma once
// Reads a text file piece by piece in bounded memory (one chunk plus one piece).

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/data/files.hpp"

namespace plimsoll {

class TextReader {
 public:
  enum class Cut {
    CodePoints,  // anywhere but inside a UTF-8 code point
    Lines,       // after line ends; longer lines before a space. Depends on the text only, not on the chunk size.
  };
  TextReader(const std::string& path, Cut cut, std::int64_t chunk_bytes, std::int64_t max_line_bytes = 1 << 16);

  // The next piece, valid until the next call; empty at the end. The pieces concatenated are the file.
  std::string_view next();
  std::int64_t piece_offset() const { return piece_offset_; }  // of the piece that next() returned, in bytes
  std::int64_t offset() const { return next_offset_; }         // bytes returned so far
  std::int64_t size() const { return file_.size(); }
  const std::string& path() const { return file_.path(); }

 private:
  bool refill();  // false at the end of the file
  std::string_view take(std::size_t bytes);

  InputFile file_;
  Cut cut_;
  std::int64_t chunk_;
  std::size_t max_line_;
  std::string buffer_;
  std::size_t begin_ = 0;  // of what was not returned yet, in buffer_
  std::int64_t read_ = 0;  // bytes read from the file
  std::int64_t piece_offset_ = 0;
  std::int64_t next_offset_ = 0;
};

}  // namespace plimsoll
