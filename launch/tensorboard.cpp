#include "launch/tensorboard.hpp"

#include <array>
#include <chrono>
#include <cstring>

#include "launch/process.hpp"
#include "proto/event.pb.h"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c & 1U) != 0 ? (c >> 1) ^ 0x82F63B78U : c >> 1;
    table[i] = c;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

// TFRecord stores checksums rotated and offset, so that a checksum of data that holds checksums is still good.
std::uint32_t masked(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U; }

template <class T>
std::string bytes_of(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

std::uint32_t crc32c(std::string_view data) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : data) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFFU];
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(const std::string& run_dir)
    : path_(fmt::format("{}/events.out.tfevents.{}.{}", run_dir, static_cast<std::int64_t>(wall_time()), host_name())) {
  file_.open(path_, std::ios::binary | std::ios::app);
  tensorboard::Event event;
  event.set_wall_time(wall_time());
  event.set_file_version("brain.Event:2");
  write_record(event.SerializeAsString());
}

void TensorBoardWriter::scalar(std::string_view tag, std::int64_t step, double value) {
  tensorboard::Event event;
  event.set_wall_time(wall_time());
  event.set_step(step);
  tensorboard::Value* v = event.mutable_summary()->add_value();
  v->set_tag(std::string(tag));
  v->set_simple_value(static_cast<float>(value));
  write_record(event.SerializeAsString());
}

void TensorBoardWriter::write_record(const std::string& record) {
  const std::string length = bytes_of(static_cast<std::uint64_t>(record.size()));
  file_ << length << bytes_of(masked(crc32c(length))) << record << bytes_of(masked(crc32c(record)));
  file_.flush();
  require(file_.good(), ErrorKind::CheckpointIo, "{}: cannot be written", path_);
}

}  // namespace plimsoll
