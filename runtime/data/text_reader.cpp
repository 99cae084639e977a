#include "runtime/data/text_reader.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/data/utf8.hpp"

namespace plimsoll {

TextReader::TextReader(const std::string& path, Cut cut, std::int64_t chunk_bytes, std::int64_t max_line_bytes)
    : file_(InputFile::open(path)),
      cut_(cut),
      chunk_(chunk_bytes),
      max_line_(static_cast<std::size_t>(max_line_bytes)) {
  require(chunk_bytes >= 4 && max_line_bytes >= 4, ErrorKind::Internal, "a chunk of {} bytes cannot hold a code point",
          std::min(chunk_bytes, max_line_bytes));
}

bool TextReader::refill() {
  const std::int64_t n = std::min(chunk_, file_.size() - read_);
  if (n == 0) return false;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const std::size_t kept = buffer_.size();
  buffer_.resize(kept + static_cast<std::size_t>(n));
  file_.read_at(read_, std::as_writable_bytes(std::span(buffer_).subspan(kept)));
  read_ += n;
  return true;
}

std::string_view TextReader::take(std::size_t bytes) {
  const std::string_view piece = std::string_view(buffer_).substr(begin_, bytes);
  begin_ += bytes;
  piece_offset_ = next_offset_;
  next_offset_ += static_cast<std::int64_t>(bytes);
  return piece;
}

std::string_view TextReader::next() {
  if (cut_ == Cut::CodePoints) {
    refill();
    const std::string_view rest = std::string_view(buffer_).substr(begin_);
    return take(read_ < file_.size() ? utf8_cut(rest, rest.size()) : rest.size());
  }
  std::size_t searched = 0;
  while (true) {
    const std::string_view rest = std::string_view(buffer_).substr(begin_);
    const std::size_t end = rest.find('\n', searched);
    if (end < max_line_) return take(end + 1);
    if (rest.size() >= max_line_) {
      const std::size_t space = rest.substr(0, max_line_).rfind(' ');
      const bool after_text = space != std::string_view::npos && space > 0;
      return take(after_text ? space : utf8_cut(rest, max_line_));
    }
    searched = rest.size();
    if (!refill()) return take(rest.size());
  }
}

}  // namespace plimsoll
