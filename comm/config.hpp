#pragma once
// The comm section of a configuration.

#include <cstdint>
#include <optional>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class TransportName { Auto, Self, Local, Mpi, Nccl, Staged, Fake };
enum class CollectiveSource { Auto, Own, Mpi };  // who implements collectives on the mpi transport

struct CommConfig {
  TransportName transport = TransportName::Auto;
  std::optional<std::int64_t> bucket;  // bytes of gradients sent together; nullopt: auto
  CollectiveSource collectives = CollectiveSource::Auto;
  bool operator==(const CommConfig&) const = default;
};

KeyTable<CommConfig> comm_keys();

}  // namespace plimsoll
