#include "runtime/checkpoint/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little endian");

constexpr std::int64_t kPrefixBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

struct StoredType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};
constexpr std::array kStoredTypes{
    StoredType{"F32", 32, DType::f32},      StoredType{"F64", 64, DType::f64},
    StoredType{"BF16", 16, DType::bf16},    StoredType{"F16", 16, DType::f16},
    StoredType{"I32", 32, DType::i32},      StoredType{"I64", 64, DType::i64},
    StoredType{"U8", 8, DType::u8},         StoredType{"BOOL", 8, std::nullopt},
    StoredType{"I8", 8, std::nullopt},      StoredType{"I16", 16, std::nullopt},
    StoredType{"U16", 16, std::nullopt},    StoredType{"U32", 32, std::nullopt},
    StoredType{"U64", 64, std::nullopt},    StoredType{"C64", 64, std::nullopt},
    StoredType{"F8_E4M3", 8, std::nullopt}, StoredType{"F8_E5M2", 8, std::nullopt},
    StoredType{"F8_E8M0", 8, std::nullopt}, StoredType{"F6_E2M3", 6, std::nullopt},
    StoredType{"F6_E3M2", 6, std::nullopt}, StoredType{"F4", 4, std::nullopt},
};

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// The header text, read in small pieces. The JSON lexer keeps a whole token (and runs of white space) in memory and
// takes NUL for the end, so this shortens white space, bounds tokens and refuses NUL before the lexer sees them.
class HeaderText {
 public:
  HeaderText(const File& file, std::int64_t bytes) : file_(file), remaining_(bytes) { advance(); }
  bool at_end() const { return at_end_; }
  char current() const { return current_; }

  void advance() {
    const bool after_space = !in_string_ && is_space(current_);
    do {
      if (!take()) {
        at_end_ = true;
        return;
      }
    } while (after_space && is_space(current_));
    follow_strings();
    // Not require(): its arguments would be built for every byte.
    if (++token_bytes_ > kMaxTokenBytes)
      fail(ErrorKind::BadData, "{}: the header holds a name, text or number of more than {} bytes",
           file_.path().string(), kMaxTokenBytes);
  }

 private:
  bool take() {
    if (next_ == filled_) {
      if (remaining_ == 0) return false;
      filled_ = static_cast<std::size_t>(std::min<std::int64_t>(remaining_, static_cast<std::int64_t>(buffer_.size())));
      file_.read_at(buffer_.data(), static_cast<std::int64_t>(filled_), offset_);
      offset_ += static_cast<std::int64_t>(filled_);
      remaining_ -= static_cast<std::int64_t>(filled_);
      next_ = 0;
    }
    current_ = buffer_[next_++];
    if (current_ == '\0') fail(ErrorKind::BadData, "{}: the header holds a NUL byte", file_.path().string());
    return true;
  }

  void follow_strings() {
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (current_ == '\\') {
        escaped_ = true;
      } else if (current_ == '"') {
        in_string_ = false;
        token_bytes_ = 0;
      }
    } else if (current_ == '"') {
      in_string_ = true;
      token_bytes_ = 0;
    } else if (is_space(current_) || std::strchr("{}[],:", current_) != nullptr) {
      token_bytes_ = 0;
    }
  }

  const File& file_;
  std::vector<char> buffer_ = std::vector<char>(std::size_t{64} << 10);
  std::size_t next_ = 0, filled_ = 0;
  std::int64_t offset_ = kPrefixBytes;
  std::int64_t remaining_;
  std::int64_t token_bytes_ = 0;
  char current_ = '{';
  bool at_end_ = false, in_string_ = false, escaped_ = false;
};

// The pair of iterators that the JSON parser wants.
class HeaderIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;
  HeaderIterator() = default;
  explicit HeaderIterator(HeaderText& text) : text_(&text) {}
  char operator*() const { return text_->current(); }
  HeaderIterator& operator++() {
    text_->advance();
    return *this;
  }
  bool operator==(const HeaderIterator& other) const { return ended() == other.ended(); }

 private:
  bool ended() const { return text_ == nullptr || text_->at_end(); }
  HeaderText* text_ = nullptr;
};

// Receives the events of the JSON parser and knows the header's grammar; depth is at most three by construction.
class HeaderReader {
 public:
  explicit HeaderReader(const File& file) : file_(file.path().string()), where_(file_), data_bytes_(file.size()) {}

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(std::int64_t) { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) { return unexpected("a number that is not a 64-bit integer"); }
  bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }
  bool number_unsigned(std::uint64_t value);
  bool string(std::string& value);
  bool start_object(std::size_t);
  bool key(std::string& name);
  bool end_object();
  bool start_array(std::size_t);
  bool end_array();
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    fail(ErrorKind::BadData, "{}: the header is not valid JSON: {:.300}", file_, error.what());
  }
  // Checks the rules that need the whole header. `data_begin` is the file offset of the tensors.
  SafetensorsHeader finish(std::int64_t data_begin);

 private:
  enum class Place { Outside, Header, Metadata, Tensor, Shape, Offsets };

  bool unexpected(std::string_view what) const {
    constexpr std::array kExpected{"the header must be one JSON object",
                                   "a tensor must be described by an object",
                                   "values must be strings",
                                   "dtype must be a string, shape and data_offsets arrays of integers",
                                   "shape must be an array of integers, none negative",
                                   "data_offsets must be two integers, none negative"};
    fail(ErrorKind::BadData, "{}: {}, found {}", where_, kExpected.at(static_cast<std::size_t>(place_)), what);
  }
  void count_memory(std::size_t bytes) {
    memory_ += static_cast<std::int64_t>(bytes);
    require(memory_ <= kMaxHeaderMemory, ErrorKind::BadData, "{}: the header needs more than {} bytes of memory", file_,
            kMaxHeaderMemory);
  }
  void finish_tensor();

  std::string file_;
  std::string where_;  // file and tensor, for messages
  std::int64_t data_bytes_;
  SafetensorsHeader header_;
  Place place_ = Place::Outside;
  std::string key_;    // the tensor's name, or __metadata__
  std::string inner_;  // the key inside it
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  const StoredType* type_ = nullptr;
  SafetensorsTensor tensor_;
  std::array<std::int64_t, 2> offsets_{};
  std::size_t offsets_read_ = 0;
  std::int64_t memory_ = 0;
};

bool HeaderReader::number_unsigned(std::uint64_t value) {
  if (place_ != Place::Shape && place_ != Place::Offsets) return unexpected("a number");
  require(value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()), ErrorKind::BadData,
          "{}: {} is larger than a 63-bit integer", where_, value);
  const auto number = static_cast<std::int64_t>(value);
  if (place_ == Place::Shape) {
    require(tensor_.shape.rank() < kMaxRank, ErrorKind::BadData, "{}: has more than {} dims", where_, kMaxRank);
    tensor_.shape.push_back(number);
  } else {
    require(offsets_read_ < 2, ErrorKind::BadData, "{}: data_offsets has more than two entries", where_);
    offsets_.at(offsets_read_++) = number;
  }
  return true;
}

bool HeaderReader::string(std::string& value) {
  if (place_ == Place::Metadata) {
    count_memory(inner_.size() + value.size() + 128);
    require(header_.metadata.emplace(inner_, value).second, ErrorKind::BadData, "{}: key {} appears twice", where_,
            shown_name(inner_));
    return true;
  }
  if (place_ != Place::Tensor || inner_ != "dtype") return unexpected("a string");
  const auto* row =
      std::find_if(kStoredTypes.begin(), kStoredTypes.end(), [&](const StoredType& t) { return t.name == value; });
  require(row != kStoredTypes.end(), ErrorKind::BadData, "{}: dtype {} is not known", where_, shown_name(value));
  type_ = row;
  return true;
}

bool HeaderReader::start_object(std::size_t) {
  if (place_ == Place::Outside) {
    place_ = Place::Header;
  } else if (place_ == Place::Header && key_ == kMetadataKey) {
    place_ = Place::Metadata;
  } else if (place_ == Place::Header) {
    place_ = Place::Tensor;
    tensor_ = {};
    offsets_read_ = 0;
    has_dtype_ = has_shape_ = has_offsets_ = false;
  } else {
    return unexpected("an object");
  }
  return true;
}

bool HeaderReader::key(std::string& name) {
  if (place_ == Place::Header) {
    key_ = name;
    where_ = name == kMetadataKey ? fmt::format("{}: {}", file_, kMetadataKey)
                                  : fmt::format("{}: tensor {}", file_, shown_name(name));
    if (name == kMetadataKey) {
      require(!has_metadata_, ErrorKind::BadData, "{}: {} appears twice", file_, kMetadataKey);
      has_metadata_ = true;
    }
    return true;
  }
  inner_ = name;
  if (place_ == Place::Metadata) return true;
  bool* seen = name == "dtype"          ? &has_dtype_
               : name == "shape"        ? &has_shape_
               : name == "data_offsets" ? &has_offsets_
                                        : nullptr;
  require(seen != nullptr, ErrorKind::BadData, "{}: key {} is not known", where_, shown_name(name));
  require(!*seen, ErrorKind::BadData, "{}: {} appears twice", where_, name);
  *seen = true;
  return true;
}

bool HeaderReader::end_object() {
  if (place_ == Place::Tensor) finish_tensor();
  place_ = place_ == Place::Header ? Place::Outside : Place::Header;
  return true;
}

bool HeaderReader::start_array(std::size_t) {
  if (place_ != Place::Tensor || (inner_ != "shape" && inner_ != "data_offsets")) return unexpected("an array");
  place_ = inner_ == "shape" ? Place::Shape : Place::Offsets;
  return true;
}

bool HeaderReader::end_array() {
  place_ = Place::Tensor;
  return true;
}

void HeaderReader::finish_tensor() {
  require(has_dtype_, ErrorKind::BadData, "{}: dtype is missing", where_);
  require(has_shape_, ErrorKind::BadData, "{}: shape is missing", where_);
  require(has_offsets_ && offsets_read_ == 2, ErrorKind::BadData, "{}: data_offsets must be two integers", where_);
  const auto [begin, end] = offsets_;
  require(begin <= end, ErrorKind::BadData, "{}: data_offsets [{}, {}] run backwards", where_, begin, end);
  require(end <= data_bytes_, ErrorKind::BadData, "{}: data_offsets [{}, {}] lie beyond the end of the file", where_,
          begin, end);
  std::int64_t bits = type_->bits;
  bool overflow = false;
  for (const std::int64_t dim : tensor_.shape) overflow = overflow || __builtin_mul_overflow(bits, dim, &bits);
  require(!overflow, ErrorKind::BadData, "{}: the product of its shape [{}] overflows", where_,
          fmt::join(tensor_.shape.begin(), tensor_.shape.end(), ", "));
  require(bits % 8 == 0 && bits / 8 == end - begin, ErrorKind::BadData,
          "{}: {} [{}] takes {} bytes, data_offsets [{}, {}] hold {}", where_, type_->name,
          fmt::join(tensor_.shape.begin(), tensor_.shape.end(), ", "), bits / 8, begin, end, end - begin);
  tensor_.stored_dtype = type_->name;
  tensor_.dtype = type_->dtype;
  tensor_.begin = begin;
  tensor_.bytes = end - begin;
  count_memory(key_.size() + sizeof(SafetensorsTensor) + 128);
  require(header_.tensors.emplace(key_, tensor_).second, ErrorKind::BadData, "{}: appears twice", where_);
}

SafetensorsHeader HeaderReader::finish(std::int64_t data_begin) {
  std::vector<SafetensorsIndex::value_type*> in_order;
  in_order.reserve(header_.tensors.size());
  for (auto& entry : header_.tensors) in_order.push_back(&entry);
  std::sort(in_order.begin(), in_order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.bytes) < std::pair(b->second.begin, b->second.bytes);
  });
  std::int64_t expected = 0;
  for (auto* entry : in_order) {
    SafetensorsTensor& tensor = entry->second;
    require(tensor.begin == expected, ErrorKind::BadData, "{}: tensor {}: data_offsets start at {}, {} byte {}", file_,
            shown_name(entry->first), tensor.begin,
            tensor.begin < expected ? "overlapping a tensor that ends at" : "leaving a gap after", expected);
    expected += tensor.bytes;
    tensor.begin += data_begin;
  }
  require(data_begin + expected == data_bytes_, ErrorKind::BadData,
          "{}: the tensors end at byte {}, the file has {} bytes", file_, data_begin + expected, data_bytes_);
  return std::move(header_);
}

}  // namespace

std::string_view stored_dtype_name(DType type) {
  const auto* row =
      std::find_if(kStoredTypes.begin(), kStoredTypes.end(), [&](const StoredType& t) { return t.dtype == type; });
  require(row != kStoredTypes.end(), ErrorKind::Internal, "safetensors cannot store {}", dtype_name(type));
  return row->name;
}

std::string shown_name(std::string_view name) {
  constexpr std::size_t kMost = 120;
  std::string text(name.substr(0, kMost));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return fmt::format("'{}{}'", text, name.size() > kMost ? "…" : "");
}

SafetensorsHeader read_safetensors_header(const File& file) {
  const std::string name = file.path().string();
  require(file.size() >= kPrefixBytes, ErrorKind::BadData, "{}: has {} bytes; a safetensors file has at least {}", name,
          file.size(), kPrefixBytes);
  std::uint64_t length = 0;
  file.read_at(&length, kPrefixBytes, 0);
  require(length <= static_cast<std::uint64_t>(kMaxHeaderBytes), ErrorKind::BadData,
          "{}: header length {} is more than the {} bytes that safetensors allows", name, length, kMaxHeaderBytes);
  const auto bytes = static_cast<std::int64_t>(length);
  require(bytes <= file.size() - kPrefixBytes, ErrorKind::BadData,
          "{}: header length {} lies beyond the end of the file ({} bytes)", name, bytes, file.size());
  require(bytes >= 2, ErrorKind::BadData, "{}: header length {} is too short for a JSON object", name, bytes);
  char first = 0;
  file.read_at(&first, 1, kPrefixBytes);
  require(first == '{', ErrorKind::BadData, "{}: the header does not start with '{{'", name);
  HeaderText text(file, bytes);
  HeaderReader reader(file);
  nlohmann::json::sax_parse(HeaderIterator(text), HeaderIterator(), &reader);
  return reader.finish(kPrefixBytes + bytes);
}

}  // namespace plimsoll
