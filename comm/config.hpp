#pragma once
// The comm section of a configuration.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

// Whether replicas sum gradients inside nodes before they sum over nodes.
enum class HierarchicalSums { Auto, On, Off };
constexpr std::array<EnumName, 3> enum_names(HierarchicalSums) {
  return {named(HierarchicalSums::Auto, "auto"), named(HierarchicalSums::On, "on"),
          named(HierarchicalSums::Off, "off")};
}

inline constexpr std::int64_t kMostPipelineChunks = 64;
inline constexpr std::int64_t kMostPrefetchUses = 64;

struct CommConfig {
  TransportName transport = TransportName::Auto;
  std::optional<std::int64_t> bucket;    // bytes of gradients sent together; nullopt: auto
  std::optional<std::int64_t> prefetch;  // gathers that one of ZeRO-3 begins ahead; nullopt: auto
  std::optional<std::int64_t> gather;    // bytes of parameters that ZeRO-3 gathers together; nullopt: auto
  HierarchicalSums hierarchical = HierarchicalSums::Auto;
  std::optional<std::int64_t> node_ranks;  // of `hierarchical` on: what the plan of a resumed run has. No key
  // Of a plan that the run follows, by stage: the bytes of each bucket, and the ends of the gathers among the uses.
  // No key; empty: chosen.
  std::vector<std::vector<std::int64_t>> planned_buckets, planned_gathers;
  std::optional<std::int64_t> pipeline_chunks = 1;  // of a stage's output, on their way one by one; nullopt: auto
  bool overlap = true;                              // false: compute waits for every collective
  CollectiveSource collectives = CollectiveSource::Auto;
  std::optional<double> deadline;  // seconds; nullopt: auto
  std::string cluster;             // a file of configs/clusters; empty: auto, a CPU core per rank
  bool operator==(const CommConfig&) const = default;
};

KeyTable<CommConfig> comm_keys();

}  // namespace plimsoll
