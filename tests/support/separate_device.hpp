#pragma once
// A device whose memory the host cannot reach, as a GPU's, made from CPU streams. Its memory may be read and written
// only by tasks of its streams and by its copies; anywhere else the process dies of SIGSEGV. Tasks of the compute and
// copy streams run as late as they can: while the host is inside a call of the device that may block. So what the host
// changes too early, or reads before it has waited, shows in the results. These streams say that they only launch, as a
// GPU's do; those of communication are threads, as where messages go through the host.

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "launch/backend.hpp"

namespace plimsoll::test {

// What the host did that makes it wait for the device.
struct HostWaits {
  std::int64_t copies = 0, synchronizations = 0;
};

class SeparateDevice : public Device {
 public:
  virtual HostWaits waits() const = 0;
  virtual std::int64_t captures() const = 0, replays() const = 0;
  // How often a range of this name began; Error(Internal) while one is open.
  virtual std::map<std::string, std::int64_t> ranges() const = 0;
};

// What outside_bytes() of such a device is.
using OutsideBytes = std::function<std::int64_t()>;

// `records`: its streams can record launches. Kernels use one thread.
std::unique_ptr<SeparateDevice> make_separate_device(bool records = false, OutsideBytes outside = {});
Backend make_separate_backend(bool records = false, OutsideBytes outside = {});
// That of one of several ranks, with transports of its own; its streams can record launches. `address`: as
// DeviceTransports has it.
Backend make_separate_backend_over(DeviceTransportChoice choice, const std::string& address = "",
                                   OutsideBytes outside = {});

// Asks the system, so that the answer no does not end the process.
bool host_can_read(const void* memory);

}  // namespace plimsoll::test
