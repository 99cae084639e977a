#pragma once
// What a message or a collective over a group of ranks takes, by size: the measured table (comm/probe.hpp) or a line
// from a description. The planners' one source for the time of communication.

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class LinkOperation : std::uint8_t { SendReceive, ReduceScatter, AllGather, AllReduce };
inline constexpr int kLinkOperations = 4;
constexpr std::array<EnumName, kLinkOperations> enum_names(LinkOperation) {
  return {named(LinkOperation::SendReceive, "send_receive"), named(LinkOperation::ReduceScatter, "reduce_scatter"),
          named(LinkOperation::AllGather, "all_gather"), named(LinkOperation::AllReduce, "all_reduce")};
}

// T(m) = latency + m / bandwidth, m in bytes of the whole tensor: of the message, of what is reduced, or of what the
// ranks have together after a gather.
struct LinkLine {
  double latency_s = 0;
  double bytes_per_s = 0;
  double seconds(double bytes) const { return latency_s + bytes / bytes_per_s; }
};

struct LinkSample {
  std::int64_t bytes;
  double seconds;
};

// One operation over one group: at least one sample, sizes ascending. Times are made to rise with the size: a larger
// message that was measured faster counts for the smaller ones too.
class LinkTable {
 public:
  // Throws Error(Internal) where samples are missing, out of order or not positive.
  explicit LinkTable(std::vector<LinkSample> samples);
  // A line as a table: exact at every power of two from 1 KiB to 1 GiB.
  explicit LinkTable(const LinkLine& line);

  // Interpolated between the two samples around `bytes`, log-log. Below the first: its time. Above the last: at the
  // rate between the last two (of a single sample: at its own).
  double seconds(double bytes) const;
  // The line that fits samples of at least `least_bytes` best, by the least sum of squared relative errors; latency is
  // never negative. Fewer than two such samples: the rate of the last one. Where longer messages take no longer: what
  // they take, and, since nothing is known of more bytes, the rate of the last one on top.
  LinkLine fit(std::int64_t least_bytes = 0) const;
  const std::vector<LinkSample>& samples() const { return samples_; }

 private:
  std::vector<LinkSample> samples_;
};

}  // namespace plimsoll
