#include "launch/config_checks.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "parallel/overlap.hpp"
#include "parallel/pipeline.hpp"
#include "parallel/rules.hpp"
#include "runtime/data/token_file.hpp"
#include "runtime/ops/attention_device.hpp"

namespace plimsoll {
namespace {

using Issues = std::vector<ConfigIssue>;

void check_schedule(const Config& config, Issues& issues) {
  const ScheduleConfig& s = config.schedule;
  if (s.warmup > config.train.steps) {
    issues.push_back({"schedule.warmup",
                      fmt::format("warmup {} is above train.steps {}", s.warmup, config.train.steps),
                      {"train.steps"}});
  } else if (s.decay_steps && s.warmup + *s.decay_steps > config.train.steps) {
    issues.push_back({"schedule.decay_steps",
                      fmt::format("warmup {} + decay_steps {} is above train.steps {}", s.warmup, *s.decay_steps,
                                  config.train.steps),
                      {"schedule.warmup", "train.steps"}});
  }
  if (s.min_lr > config.optimizer.lr) {
    issues.push_back({"schedule.min_lr",
                      fmt::format("min_lr {} is above optimizer.lr {}", s.min_lr, config.optimizer.lr),
                      {"optimizer.lr"}});
  }
  if (s.decay_steps && s.name != ScheduleName::Wsd) {
    issues.push_back({"schedule.decay_steps",
                      fmt::format("only with schedule.name: wsd, not {}", to_text(s.name)),
                      {"schedule.name"}});
  }
  if (s.min_lr > 0 && s.name == ScheduleName::Constant) {
    issues.push_back({"schedule.min_lr", "has no effect with schedule.name: constant", {"schedule.name"}});
  }
  if (config.optimizer.rounding == WeightRounding::Stochastic && config.precision != DType::bf16)
    issues.push_back({"optimizer.rounding", "stochastic only with precision: bf16", {"precision"}});
  if (config.fp8 != Fp8Use::Off && config.precision != DType::bf16)
    issues.push_back({"fp8", "linears only with precision: bf16", {"precision"}});
  if (config.fp8 != Fp8Use::Off && config.parallel.tensor_chunks.value_or(1) > 1)
    issues.push_back({"parallel.tensor_chunks", "linears in fp8 are not cut: 1 with fp8: linears", {"fp8"}});
  if (config.optimizer.momentum > 0 && config.optimizer.name != OptimizerName::Sgd) {
    issues.push_back({"optimizer.momentum", "only with optimizer.name: sgd", {"optimizer.name"}});
  }
  const OptimizerConfig defaults;
  const LossScaleConfig& scale = config.optimizer.loss_scale;
  for (const auto& [differs, name] :
       {std::pair{scale.initial != defaults.loss_scale.initial, "optimizer.loss_scale.initial"},
        std::pair{scale.window != defaults.loss_scale.window, "optimizer.loss_scale.window"}}) {
    if (differs && config.precision != DType::f16) issues.push_back({name, "only with precision: fp16", {"precision"}});
  }
  for (const auto& [differs, name] : {std::pair{config.optimizer.betas != defaults.betas, "optimizer.betas"},
                                      std::pair{config.optimizer.eps != defaults.eps, "optimizer.eps"}}) {
    if (differs && config.optimizer.name != OptimizerName::AdamW)
      issues.push_back({name, "only with optimizer.name: adamw", {"optimizer.name"}});
  }
}

void check_data(const Config& config, Issues& issues) {
  const DataConfig& data = config.data;
  if (data.train.empty()) issues.push_back({"data.train", "is required: prefixes of .bin and .idx files"});
  if (data.sequence > config.model.positions) {
    issues.push_back({"data.sequence",
                      fmt::format("sequence {} is above model.positions {}", data.sequence, config.model.positions),
                      {"model.positions"}});
  }
  for (const std::string& file : data.validation_files) {
    const bool shared = std::any_of(data.train.begin(), data.train.end(),
                                    [&](const DataSource& s) { return same_token_file(s.path, file); });
    if (shared) issues.push_back({"data.validation", fmt::format("'{}' is also in data.train", file), {"data.train"}});
  }
}

void check_batch(const Config& config, Issues& issues) {
  const std::int64_t micro = config.train.micro_batch.value_or(1);
  if (config.train.global_batch % micro != 0) {
    issues.push_back(
        {"train.micro_batch",
         fmt::format("global_batch {} is not divisible by micro_batch {}", config.train.global_batch, micro),
         {"train.global_batch"}});
  }
}

void check_memory(const Config& config, Issues& issues) {
  const MemoryConfig& memory = config.memory;
  if (memory.budget && memory.reserve && *memory.reserve >= *memory.budget) {
    issues.push_back({"memory.reserve", "leaves nothing of memory.budget", {"memory.budget"}});
  }
  if (!memory.budgets.empty() && config.parallel.automatic)
    issues.push_back({"memory.budget", "a list is of the ranks of an explicit layout", {"parallel"}});
  const auto listed = static_cast<std::int64_t>(memory.recompute_layers.size());
  if (listed > 0 && listed != config.model.layers) {
    issues.push_back(
        {"memory.recompute", fmt::format("{} entries for {} layers", listed, config.model.layers), {"model.layers"}});
  }
}

// A list is by rank of the shard axis.
void check_budgets(const Config& config, int ranks, Issues& issues) {
  const ParallelConfig& p = config.parallel;
  const std::int64_t data = p.data.value_or(ranks / (p.pipeline * p.tensor)), shards = p.shard.value_or(data);
  if (config.memory.budgets.empty() || p.automatic || std::ssize(config.memory.budgets) == shards) return;
  issues.push_back({"memory.budget",
                    fmt::format("{} sizes for {} ranks of the shard axis", config.memory.budgets.size(), shards),
                    {"parallel.shard", "parallel.data"}});
}

void check_chunks(const Config& config, Issues& issues) {
  const ParallelConfig& p = config.parallel;
  if (p.tensor_chunks.value_or(1) == 1) return;  // what auto chooses divides
  if (p.tensor == 1) {
    issues.push_back({"parallel.tensor_chunks", "has no effect with tensor: 1", {"parallel.tensor"}});
  } else if (config.train.micro_batch) {
    const bool sequence = p.sequence.value_or(config.data.sequence % p.tensor == 0);
    if (auto fault = tensor_chunks_fault(*config.train.micro_batch, config.data.sequence, sequence, *p.tensor_chunks))
      issues.push_back({"parallel.tensor_chunks", *fault, {"train.micro_batch", "data.sequence", "parallel.sequence"}});
  }
}

void check_parallel(const Config& config, Issues& issues) {
  for (ConfigIssue& issue : layout_issues(config.parallel, config.model, config.data.sequence))
    issues.push_back(std::move(issue));
  check_chunks(config, issues);
  const bool other_shares = config.parallel.auto_state_shares || !config.parallel.state_shares.empty();
  if (config.parallel.auto_shard && (other_shares || !config.memory.budgets.empty()))
    issues.push_back({"parallel.shard",
                      "auto divides evenly: all or a number with state_shares and with a list of budgets",
                      {"parallel.state_shares", "memory.budget"}});
  if (config.comm.prefetch && !config.parallel.automatic && config.parallel.zero.value_or(0) != 3)
    issues.push_back({"comm.prefetch", "parameters are gathered with zero: 3 only", {"parallel.zero"}});
  if (config.comm.gather.value_or(0) > 0 && !config.parallel.automatic && config.parallel.zero.value_or(0) != 3)
    issues.push_back({"comm.gather", "parameters are gathered with zero: 3 only", {"parallel.zero"}});
  if (config.comm.pipeline_chunks.value_or(1) > 1 && config.parallel.automatic) {
    issues.push_back(
        {"comm.pipeline_chunks", "stages may have a tensor axis: 1 or auto with parallel: auto", {"parallel"}});
  } else if (config.comm.pipeline_chunks.value_or(1) > 1) {
    const std::int64_t rows = config.train.micro_batch.value_or(0) * config.data.sequence;
    if (config.parallel.pipeline == 1)
      issues.push_back({"comm.pipeline_chunks", "has no effect with pipeline: 1", {"parallel.pipeline"}});
    else if (auto fault =
                 pipeline_chunks_fault(config.model, config.parallel.tensor, rows, *config.comm.pipeline_chunks))
      issues.push_back({"comm.pipeline_chunks", *fault, {"parallel.tensor", "model.dropout", "train.micro_batch"}});
  }
  if (config.comm.hierarchical == HierarchicalSums::On) {
    if (config.parallel.zero.value_or(0) > 0)
      issues.push_back({"comm.hierarchical", "with zero, sums go over parallel.shard first", {"parallel.zero"}});
    if (config.comm.cluster.empty())
      issues.push_back(
          {"comm.hierarchical", "needs comm.cluster, which says how many ranks a node has", {"comm.cluster"}});
  }
}

}  // namespace

Issues contradictions(const Config& config) {
  Issues issues;
  for (ConfigIssue& issue : model_issues(config.model)) {
    issue.key = "model." + issue.key;
    for (std::string& other : issue.others) other = "model." + other;
    issues.push_back(std::move(issue));
  }
  check_data(config, issues);
  check_batch(config, issues);
  check_schedule(config, issues);
  check_parallel(config, issues);
  check_memory(config, issues);
  // These decide what all other keys of the model are laid over.
  const auto of_model = [](const std::string& key) { return key.starts_with("model."); };
  for (ConfigIssue& issue : issues) {
    if (!of_model(issue.key) && std::none_of(issue.others.begin(), issue.others.end(), of_model)) continue;
    for (const char* base : {"model.preset", "model.from", "model.family"}) issue.others.emplace_back(base);
  }
  return issues;
}

Issues rank_contradictions(const Config& config, int ranks) {
  Issues issues;
  // What `parallel: auto` chooses obeys the same rules.
  if (!config.parallel.automatic)
    issues = rank_issues(config.parallel, ranks, config.train.global_batch, config.train.micro_batch);
  check_budgets(config, ranks, issues);
  if (config.comm.transport == TransportName::Self && ranks > 1) {
    issues.push_back({"comm.transport", fmt::format("self is for one rank, but {} were started", ranks)});
  }
  return issues;
}

Issues unsupported_values(const Config& config) {
  const TransportName transport = config.comm.transport;
  const bool cuda = config.device == DeviceKind::Cuda;
  const std::optional<std::string> zero_shares = zero_shares_fault(config.parallel);
  struct Row {
    bool asked;
    const char* key;
    const char* text;
  };
  const ModelConfig& model = config.model;
  const std::int64_t head_dim = model.head_dim > 0 || model.heads <= 0 ? model.head_dim : model.hidden / model.heads;
  static_assert(kMostDeviceHeadDim == 256);
  const Row rows[] = {
      {cuda && config.precision == DType::f64, "precision", "fp64 is for the CPU: device: cuda computes in fp32"},
      {zero_shares.has_value(), "parallel.shares", zero_shares ? zero_shares->c_str() : ""},
      {config.parallel.pipeline > 1 && config.model.tied && config.comm.collectives == CollectiveSource::Mpi,
       "comm.collectives", "mpi may sum the two copies of a tied embedding in different orders: not with pipeline"},
      {config.parallel.pipeline > 1 && !config.comm.overlap, "comm.overlap",
       "a stage that waits for a collective could not send what its peer waits for: true with pipeline"},
      {transport == TransportName::Local || transport == TransportName::Fake, "comm.transport",
       "runs go over auto, self, mpi, nccl or staged"},
      {!cuda && (transport == TransportName::Nccl || transport == TransportName::Staged), "comm.transport",
       "nccl and staged carry the memory of device: cuda"},
      {cuda && transport == TransportName::Mpi, "comm.transport",
       "mpi carries host memory: nccl, or staged (over mpi), with device: cuda"},
      {cuda && transport != TransportName::Staged && config.comm.collectives == CollectiveSource::Mpi,
       "comm.collectives", "mpi sums host memory: with device: cuda it needs comm.transport: staged"},
      {cuda && head_dim > kMostDeviceHeadDim, config.model.head_dim > 0 ? "model.head_dim" : "model.heads",
       "attention heads of device: cuda are at most 256 wide"},
  };
  Issues issues;
  for (const Row& row : rows) {
    if (row.asked) issues.push_back({row.key, row.text});
  }
  return issues;
}

std::string idle_text(const Config& config, std::int64_t replicas) {
  const auto line = [](std::string_view where, std::initializer_list<std::pair<bool, std::string_view>> keys) {
    std::vector<std::string_view> idle;
    for (const auto& [given, key] : keys) {
      if (given) idle.push_back(key);
    }
    return idle.empty() ? "" : fmt::format("no effect {}: {}\n", where, fmt::join(idle, ", "));
  };
  const CommConfig& comm = config.comm;
  const CudaConfig& cuda = config.cuda;
  std::string text;
  if (replicas == 1)
    text += line("with one replica, which sums no gradients and gathers no parameters",
                 {{comm.bucket.has_value(), "comm.bucket"},
                  {comm.hierarchical == HierarchicalSums::On, "comm.hierarchical"},
                  {comm.prefetch.value_or(0) > 0, "comm.prefetch"},
                  {comm.gather.value_or(0) > 0, "comm.gather"}});
  if (config.device == DeviceKind::Cpu)
    text += line("with device: cpu", {{cuda.share, "cuda.share"},
                                      {cuda.graphs == CudaUse::Off, "cuda.graphs"},
                                      {cuda.aware_mpi == CudaUse::Off, "cuda.aware_mpi"},
                                      {cuda.epilogues == CudaUse::Off, "cuda.epilogues"},
                                      {cuda.tf32, "cuda.tf32"}});
  else if (config.precision != DType::f32)
    text += line("without precision: fp32", {{cuda.tf32, "cuda.tf32"}});
  return text;
}

void resolve_automatic(Config& config) {
  const std::int64_t tensor = config.parallel.tensor;
  if (!config.parallel.automatic) {
    if (!config.parallel.zero) config.parallel.zero = 0;
    if (!config.parallel.sequence) config.parallel.sequence = tensor > 1 && config.data.sequence % tensor == 0;
  }
}

}  // namespace plimsoll
