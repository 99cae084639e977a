#pragma once
// The whole configuration of a run, as people write it in YAML. Each folder declares its own section; this file adds
// the sections of launch, puts them together and reads, checks, writes and describes them.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/config.hpp"
#include "kernels/config.hpp"
#include "optim/config.hpp"
#include "parallel/config.hpp"
#include "runtime/data/config.hpp"
#include "runtime/model/config.hpp"
#include "runtime/ops/attention.hpp"
#include "runtime/plan/cluster.hpp"
#include "runtime/plan/config.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

struct ConfigNode;

// What a key, or a plan that is followed, may say at most.
inline constexpr std::int64_t kMostBatch = std::int64_t{1} << 30, kMostThreads = 4096;

// Batches are in sequences: global_batch over all ranks per step, micro_batch per rank per forward.
struct TrainConfig {
  std::int64_t steps = 300;
  std::int64_t global_batch = 32;
  std::optional<std::int64_t> micro_batch;   // nullopt: auto, the plan chooses
  std::optional<std::int64_t> eval_batches;  // of train; nullopt: auto, all of the validation data
  bool operator==(const TrainConfig&) const = default;
};

// Periods are in steps; 0: only at the end.
struct RunConfig {
  std::string dir = "runs/plimsoll";
  std::uint64_t seed = 1;
  std::int64_t log_every = 1;
  std::int64_t eval_every = 100;
  std::int64_t save_every = 100;
  std::int64_t keep = 3;                // newest checkpoints kept; 0: all
  std::string trace;                    // file for a Chrome trace; empty: off
  bool poison = false;                  // debugging: fill dead memory with NaN
  std::optional<std::int64_t> threads;  // compute threads per rank; nullopt: auto, cores / ranks on this host
  bool operator==(const RunConfig&) const = default;
};

// What multiplies in fp8 (runtime/ops/fp8.hpp): the linears of the layers, in training.
enum class Fp8Use { Off, Linears };
constexpr std::array<EnumName, 2> enum_names(Fp8Use) {
  return {named(Fp8Use::Off, "off"), named(Fp8Use::Linears, "linears")};
}

enum class DeviceKind { Cpu, Cuda };
constexpr std::array<EnumName, 2> enum_names(DeviceKind) {
  return {named(DeviceKind::Cpu, "cpu"), named(DeviceKind::Cuda, "cuda")};
}

// The GPU that a run found: that of rank 0, which all ranks plan for, with what those of all ranks can do.
struct FoundGpu {
  std::string name;  // the driver's; empty: none was looked for
  std::int64_t memory_bytes = 0;
  std::optional<DeviceDescription> measured = {};  // where a rank's has no data sheet (runtime/plan/device_table.hpp)
  FusedHeads fused_heads = {};                     // of all ranks
};

struct Config {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  ParallelConfig parallel;
  MemoryConfig memory;
  PlanConfig plan;
  CommConfig comm;
  DType precision = DType::f32;  // of activations and matrix products: fp32 | bf16 | fp16 | fp64
  Fp8Use fp8 = Fp8Use::Off;
  DeviceKind device = DeviceKind::Cpu;
  CudaConfig cuda;
  FoundGpu gpu;  // no key
  RunConfig run;
  std::shared_ptr<const ConfigNode> source;  // what was read, for the places in later errors; may be null
};

// Equal values; where they were read does not count.
bool same_values(const Config& a, const Config& b);

// Reads, checks and resolves a file with `a.b=c` overrides over it (the right side is YAML). Throws one Error(Config)
// whose text has a line `file:line:column: what` for every fault, Error(MissingInput) when the file cannot be read.
Config load_config(const std::string& path, std::span<const std::string> overrides = {});
// The same for a text; `name` stands for the file in errors.
Config parse_config(const std::string& yaml, const std::string& name, std::span<const std::string> overrides = {});

// What depends on the number of ranks: fills parallel.data and requires that ranks = data * pipeline * tensor and that
// global_batch divides into data * micro_batch. Leaves `parallel: auto` to choose_layout(). Throws Error(Config).
void check_for_ranks(Config& config, int ranks);

// Key ("train.micro_batch") → what a run chose where the configuration says auto.
using Choices = std::map<std::string, std::string>;
// The configuration as YAML that parse_config() reads back to the same values. Choices are comments behind their
// `auto`: another number of ranks or another machine chooses anew.
std::string dump_config(const Config& config, const Choices& choices = {});
// "run.yaml:3:9: model.vocabulary", for messages: where the key was written down, or the first of `others` that was, or
// the section. The key alone when the configuration was not read from a text.
std::string key_place(const Config& config, const std::string& key, const std::vector<std::string>& others = {});
// Every key with type, default, unit, range and meaning, for people or as JSON.
std::string describe_keys(bool json);

}  // namespace plimsoll
