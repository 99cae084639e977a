#include "launch/device_transport.hpp"

#include "comm/staged_transport.hpp"
#include "parallel/mesh.hpp"

namespace plimsoll {
namespace {

// Messages between stages go both ways at once, each way on an axis of its own (runtime/exec/messages.hpp).
std::vector<std::pair<int, int>> directions_of(std::string_view axis, int ranks) {
  if (axis == "pipeline") return neighbour_directions(ranks, Towards::Next);
  if (axis == "pipeline_back") return neighbour_directions(ranks, Towards::Previous);
  return {};
}

}  // namespace

DeviceTransportChoice choose_device_transport(const Config& config, const std::optional<std::string>& shared,
                                              const Group& control, const NcclOpener& open) {
  DeviceTransportChoice choice;
  const TransportName asked = config.comm.transport;
  const bool named = asked == TransportName::Nccl;
  require(!named || !shared, ErrorKind::Config, "{}: is nccl, but {}, which NCCL does not allow: staged does",
          key_place(config, "comm.transport"), shared.value_or(""));
  if (named) choice.nccl = open();
  if (control.size() == 1) return choice;
  choice.name = asked == TransportName::Auto ? TransportName::Nccl : asked;
  if (asked != TransportName::Auto) return choice;
  if (shared) {
    choice.reason = *shared;
  } else {
    try {
      choice.nccl = open();
    } catch (const Error& error) {
      choice.reason = error.what();
    }
    if (control.max(choice.reason.empty() ? 0 : 1) > 0 && choice.reason.empty()) choice.reason = "a rank has no NCCL";
  }
  if (choice.reason.empty()) return choice;
  choice.name = TransportName::Staged;
  choice.nccl = nullptr;
  return choice;
}

std::shared_ptr<Transport> DeviceTransports::over(const std::string& axis, std::shared_ptr<Transport> below,
                                                  std::shared_ptr<WatchedGroup> watch) {
  if (choice_.name == TransportName::Staged) return make_staged_transport(std::move(below), device_, {direct_});
  NcclOptions options{axis, address_};
  options.directions = directions_of(axis, below->size());
  return nccl_.emplace_back(make_nccl_transport(choice_.nccl, std::move(below), device_, options, std::move(watch)));
}

bool DeviceTransports::register_memory(const Arena& arena, const Group& control) {
  bool registered = uses_nccl();
  for (const auto& transport : nccl_)
    registered = transport->register_memory(arena.base(), arena.bytes()) && registered;
  if (control.max(registered ? 0 : 1) == 0) return true;
  for (const auto& transport : nccl_) transport->deregister_memory();
  return false;
}

void DeviceTransports::close() {
  for (const auto& transport : nccl_) transport->close();
  nccl_.clear();
}

void DeviceTransports::abort() noexcept {
  for (const auto& transport : nccl_) transport->abort();
}

std::string DeviceTransports::text() const {
  switch (choice_.name) {
    case TransportName::Nccl: return fmt::format("NCCL {}", choice_.nccl->version());
    case TransportName::Staged:
      return fmt::format("staged through host memory{}",
                         choice_.reason.empty() ? "" : fmt::format(" ({})", choice_.reason));
    default: return "";
  }
}

}  // namespace plimsoll
