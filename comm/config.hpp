#pragma once
// The comm section of a configuration.

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class TransportName { Auto, Self, Local, Mpi, Nccl, Staged, Fake };
enum class CollectiveSource { Auto, Own, Mpi };  // who implements collectives on the mpi transport
constexpr std::array<EnumName, 7> enum_names(TransportName) {
  return {named(TransportName::Auto, "auto"),   named(TransportName::Self, "self"),
          named(TransportName::Local, "local"), named(TransportName::Mpi, "mpi"),
          named(TransportName::Nccl, "nccl"),   named(TransportName::Staged, "staged"),
          named(TransportName::Fake, "fake")};
}
constexpr std::array<EnumName, 3> enum_names(CollectiveSource) {
  return {named(CollectiveSource::Auto, "auto"), named(CollectiveSource::Own, "own"),
          named(CollectiveSource::Mpi, "mpi")};
}

struct CommConfig {
  TransportName transport = TransportName::Auto;
  std::optional<std::int64_t> bucket;  // bytes of gradients sent together; nullopt: auto
  bool overlap = true;                 // false: compute waits for every collective
  CollectiveSource collectives = CollectiveSource::Auto;
  std::optional<double> deadline;  // seconds; nullopt: auto
  std::string cluster;             // a file of configs/clusters; empty: auto, a CPU core per rank
  bool operator==(const CommConfig&) const = default;
};

KeyTable<CommConfig> comm_keys();

}  // namespace plimsoll
