#pragma once
// TensorBoard event files: TFRecord framing (length, masked CRC-32C, Event message, masked CRC-32C).

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

namespace plimsoll {

// CRC-32C (Castagnoli), reflected, as iSCSI uses it (RFC 3720).
std::uint32_t crc32c(std::string_view data);

class TensorBoardWriter {
 public:
  // Creates <run_dir>/events.out.tfevents.<seconds>.<host>. Error(CheckpointIo).
  explicit TensorBoardWriter(const std::string& run_dir);
  void scalar(std::string_view tag, std::int64_t step, double value);
  const std::string& path() const { return path_; }

 private:
  void write_record(const std::string& record);
  std::string path_;
  std::ofstream file_;
};

}  // namespace plimsoll
