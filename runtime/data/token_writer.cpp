#include "runtime/data/token_writer.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "runtime/core/error.hpp"
#include "runtime/data/megatron_format.hpp"

namespace plimsoll {
namespace {

constexpr std::size_t kBufferBytes = 1 << 18;

template <class T>
void put(OutputFile& file, const T& value) {
  file.write(std::as_bytes(std::span(&value, 1)));
}

}  // namespace

TokenWriter::TokenWriter(std::string prefix, std::int64_t vocabulary, std::int64_t max_sequence_tokens)
    : prefix_(std::move(prefix)),
      vocabulary_(vocabulary),
      max_sequence_(max_sequence_tokens),
      width_(vocabulary < kMegatronUint16Vocabulary ? 2 : 4),
      bin_(prefix_ + ".bin"),
      index_(prefix_ + ".idx") {
  buffer_.reserve(kBufferBytes);
}

void TokenWriter::append(std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids) {
    require(id >= 0 && id < vocabulary_, ErrorKind::BadData, "{}.bin: token {} is {}, outside of the vocabulary of {}",
            prefix_, tokens_, id, vocabulary_);
    if (open_sequence_ == max_sequence_) {
      lengths_.push_back(static_cast<std::int32_t>(open_sequence_));
      open_sequence_ = 0;
    }
    if (buffer_.size() + 4 > kBufferBytes) flush();
    const auto at = buffer_.size();
    buffer_.resize(at + static_cast<std::size_t>(width_));
    // The files are little-endian, and so is the host (asserted by the reader): the low bytes come first.
    std::memcpy(buffer_.data() + at, &id, static_cast<std::size_t>(width_));
    ++open_sequence_;
    ++tokens_;
  }
}

void TokenWriter::flush() {
  bin_.write(buffer_);
  buffer_.clear();
}

void TokenWriter::end_document() {
  if (open_sequence_ > 0) {
    lengths_.push_back(static_cast<std::int32_t>(open_sequence_));
    open_sequence_ = 0;
  }
  const auto sequences = static_cast<std::int64_t>(lengths_.size());
  if (sequences > (document_ends_.empty() ? 0 : document_ends_.back())) document_ends_.push_back(sequences);
}

void TokenWriter::write_index() {
  index_.write(std::as_bytes(std::span(kMegatronMagic)));
  put(index_, kMegatronVersion);
  put(index_, width_ == 2 ? kMegatronUint16 : kMegatronInt32);
  put(index_, static_cast<std::uint64_t>(lengths_.size()));
  put(index_, static_cast<std::uint64_t>(document_ends_.size() + 1));
  index_.write(std::as_bytes(std::span(lengths_)));
  std::int64_t pointer = 0;
  std::vector<std::int64_t> block;
  for (std::size_t i = 0; i < lengths_.size(); ++i) {
    block.push_back(pointer);
    pointer += lengths_[i] * width_;
    if (block.size() == 4096 || i + 1 == lengths_.size()) {
      index_.write(std::as_bytes(std::span(block)));
      block.clear();
    }
  }
  put(index_, std::int64_t{0});
  index_.write(std::as_bytes(std::span(document_ends_)));
}

void TokenWriter::finish() {
  end_document();
  require(tokens_ > 0, ErrorKind::BadData, "{}: there are no tokens to write", prefix_);
  flush();
  bin_.sync();
  write_index();
  // Without the old .bin no reader can combine one half of the old pair with one half of the new.
  std::error_code ignored;
  std::filesystem::remove(prefix_ + ".bin", ignored);
  index_.commit();
  bin_.commit();
}

}  // namespace plimsoll
