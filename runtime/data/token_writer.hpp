#pragma once
// Writes PREFIX.bin and PREFIX.idx in Megatron-LM's format (see token_file.hpp). Memory: a fixed buffer and 4 bytes per
// sequence. The pair appears under its names only when it is complete, the .bin last: whatever moment a process dies
// at, a reader finds a matching pair or an error.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/data/files.hpp"

namespace plimsoll {

class TokenWriter {
 public:
  // Ids are stored as uint16 when `vocabulary` allows it, else as int32. A document longer than `max_sequence_tokens`
  // becomes several sequences, because the format's lengths are int32.
  TokenWriter(std::string prefix, std::int64_t vocabulary, std::int64_t max_sequence_tokens = std::int64_t{1} << 30);

  // Adds ids to the open document; an id outside of the vocabulary is BadData.
  void append(std::span<const std::int32_t> ids);
  // Closes the document; one without tokens is left out.
  void end_document();
  // Closes the last document, writes the index, and puts both files in place. BadData when there are no tokens.
  void finish();

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(document_ends_.size()); }

 private:
  void flush();
  void write_index();

  std::string prefix_;
  std::int64_t vocabulary_;
  std::int64_t max_sequence_;
  std::int64_t width_;
  OutputFile bin_;
  OutputFile index_;
  std::vector<std::byte> buffer_;
  std::vector<std::int32_t> lengths_;        // of closed sequences
  std::vector<std::int64_t> document_ends_;  // sequence after the last of each document
  std::int64_t open_sequence_ = 0;           // tokens of the sequence that is being written
  std::int64_t tokens_ = 0;
};

}  // namespace plimsoll
