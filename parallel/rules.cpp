#include "parallel/rules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

namespace plimsoll {
namespace {

using Issues = std::vector<ConfigIssue>;

void check_pipeline(const ParallelConfig& p, std::int64_t layers, Issues& issues) {
  const std::int64_t pieces = p.pipeline * p.chunks();
  if (p.interleave != ParallelConfig{}.interleave && p.schedule != PipelineSchedule::Interleaved)
    issues.push_back({"parallel.interleave", "only with schedule: interleaved", {"parallel.schedule"}});
  if (p.pipeline == 1) return;
  if (pieces > layers) {
    issues.push_back({"parallel.pipeline",
                      p.chunks() == 1
                          ? fmt::format("{} stages for {} layers", p.pipeline, layers)
                          : fmt::format("{} stages of {} pieces for {} layers", p.pipeline, p.chunks(), layers),
                      {"model.layers", "parallel.interleave"}});
  }
  if (!p.stages) return;
  const std::int64_t sum = std::accumulate(p.stages->begin(), p.stages->end(), std::int64_t{0});
  if (static_cast<std::int64_t>(p.stages->size()) != pieces) {
    issues.push_back({"parallel.stages",
                      fmt::format("{} numbers for {} pieces", p.stages->size(), pieces),
                      {"parallel.pipeline", "parallel.interleave", "parallel.schedule"}});
  } else if (sum != layers) {
    issues.push_back(
        {"parallel.stages", fmt::format("{} layers in all, the model has {}", sum, layers), {"model.layers"}});
  }
}

// The batch divides into as many micro-batches for every replica.
void check_even_shares(std::int64_t data, std::int64_t global_batch, std::optional<std::int64_t> micro_batch,
                       Issues& issues) {
  const std::int64_t micro = micro_batch.value_or(1), unit = data * micro;
  if (global_batch % unit == 0) return;
  const std::int64_t lower = global_batch / unit * unit;
  const std::string nearest = lower == 0 ? fmt::format("{}", unit) : fmt::format("{} or {}", lower, lower + unit);
  issues.push_back({"train.global_batch",
                    fmt::format("global_batch {} is not divisible by {} replicas{} (nearest that is: {})", global_batch,
                                data, micro_batch ? fmt::format(" * micro_batch {} = {}", micro, unit) : "", nearest),
                    {"train.micro_batch", "parallel.data"}});
}

// The shares of a list are those of the replicas, and together the batch.
void check_listed_shares(const ParallelConfig& p, std::int64_t data, std::int64_t global_batch,
                         std::optional<std::int64_t> micro_batch, Issues& issues) {
  const std::int64_t sum = std::accumulate(p.shares.begin(), p.shares.end(), std::int64_t{0});
  if (std::ssize(p.shares) != data) {
    issues.push_back(
        {"parallel.shares", fmt::format("{} numbers for {} replicas", p.shares.size(), data), {"parallel.data"}});
  } else if (micro_batch && sum * *micro_batch != global_batch) {
    issues.push_back({"parallel.shares",
                      fmt::format("{} micro-batches of {} are {} sequences, train.global_batch is {}", sum,
                                  *micro_batch, sum * *micro_batch, global_batch),
                      {"train.global_batch", "train.micro_batch"}});
  } else if (global_batch % sum != 0) {
    issues.push_back({"parallel.shares",
                      fmt::format("global_batch {} is not divisible by {} micro-batches", global_batch, sum),
                      {"train.global_batch"}});
  }
}

// Replicas whose micro-batches an interleaved pipeline cannot take.
void check_interleaved(const ParallelConfig& p, const std::vector<std::int64_t>& shares, Issues& issues) {
  if (p.schedule != PipelineSchedule::Interleaved || p.pipeline == 1) return;
  const auto bad = std::find_if(shares.begin(), shares.end(), [&](std::int64_t n) { return n % p.pipeline != 0; });
  if (bad == shares.end()) return;
  issues.push_back(
      {"parallel.schedule",
       fmt::format("interleaved needs micro-batches that the {} stages divide, not {} per replica", p.pipeline, *bad),
       {"train.global_batch", "train.micro_batch", "parallel.pipeline", "parallel.data"}});
}

}  // namespace

Issues layout_issues(const ParallelConfig& p, const ModelConfig& model, std::int64_t sequence_tokens) {
  Issues issues;
  const std::int64_t kv_heads = model.kv_heads == 0 ? model.heads : model.kv_heads;
  if (p.tensor > 1 && model.heads % p.tensor != 0) {
    issues.push_back({"parallel.tensor",
                      fmt::format("model.heads {} is not divisible by tensor {}", model.heads, p.tensor),
                      {"model.heads"}});
  }
  if (p.tensor > 1 && kv_heads > 0 && kv_heads % p.tensor != 0 && p.tensor % kv_heads != 0) {
    issues.push_back({"parallel.tensor",
                      fmt::format("neither of tensor {} and model.kv_heads {} divides the other", p.tensor, kv_heads),
                      {"model.kv_heads", "model.heads"}});
  }
  if (p.tensor > 1 && model.ffn % p.tensor != 0) {
    issues.push_back({"parallel.tensor",
                      fmt::format("model.ffn {} is not divisible by tensor {}", model.ffn, p.tensor),
                      {"model.ffn"}});
  }
  if (p.sequence.value_or(false) && sequence_tokens % p.tensor != 0) {
    issues.push_back({"parallel.sequence",
                      fmt::format("data.sequence {} is not divisible by tensor {}", sequence_tokens, p.tensor),
                      {"data.sequence", "parallel.tensor"}});
  }
  check_pipeline(p, model.layers, issues);
  if (p.shard && *p.shard > 1 && p.zero.value_or(0) == 0) {
    issues.push_back({"parallel.shard", "nothing is divided with zero: 0", {"parallel.zero"}});
  }
  if ((p.auto_state_shares || !p.state_shares.empty()) && p.zero.value_or(0) == 0) {
    issues.push_back({"parallel.state_shares", "nothing is divided with zero: 0", {"parallel.zero"}});
  }
  if (p.sequence.value_or(false) && p.tensor == 1) {
    issues.push_back({"parallel.sequence", "sequence parallelism needs tensor > 1", {"parallel.tensor"}});
  }
  return issues;
}

Issues rank_issues(const ParallelConfig& p, int ranks, std::int64_t global_batch,
                   std::optional<std::int64_t> micro_batch) {
  const std::int64_t model_ranks = p.pipeline * p.tensor;
  const std::int64_t data = p.data.value_or(std::max<std::int64_t>(1, ranks / model_ranks));
  if (data * model_ranks != ranks) {
    const bool tensor = p.tensor > 1 && p.pipeline == 1;
    return {{p.data   ? "parallel.data"
             : tensor ? "parallel.tensor"
                      : "parallel.pipeline",
             fmt::format("data {} * pipeline {} * tensor {} = {} ranks, but there are {} (mpirun -n N; --ranks N of "
                         "plan and graph)",
                         data, p.pipeline, p.tensor, data * model_ranks, ranks),
             {"parallel.tensor"}}};
  }
  Issues issues;
  if (p.schedule != ParallelConfig{}.schedule && p.pipeline == 1) {
    issues.push_back({"parallel.schedule", "has no effect with pipeline: 1", {"parallel.pipeline"}});
  }
  if (p.stages && p.pipeline == 1)
    issues.push_back({"parallel.stages", "has no effect with pipeline: 1", {"parallel.pipeline"}});
  if (p.shares.empty()) {
    check_interleaved(p, {global_batch / (data * micro_batch.value_or(1))}, issues);
  } else {
    check_interleaved(p, p.shares, issues);
  }
  if (p.shard && data % *p.shard != 0) {
    issues.push_back(
        {"parallel.shard", fmt::format("data {} is not divisible by shard {}", data, *p.shard), {"parallel.data"}});
  }
  if (const std::int64_t shards = p.shard.value_or(data);
      !p.state_shares.empty() && std::ssize(p.state_shares) != shards) {
    issues.push_back({"parallel.state_shares",
                      fmt::format("{} numbers for {} ranks of the shard axis", p.state_shares.size(), shards),
                      {"parallel.shard", "parallel.data"}});
  }
  if (p.shares.empty()) {
    check_even_shares(data, global_batch, micro_batch, issues);
  } else {
    check_listed_shares(p, data, global_batch, micro_batch, issues);
  }
  return issues;
}

std::optional<std::string> zero_shares_fault(const ParallelConfig& p) {
  const bool listed = std::adjacent_find(p.shares.begin(), p.shares.end(), std::not_equal_to<>()) != p.shares.end();
  if (p.zero.value_or(0) < 2 || (!p.auto_shares && !listed)) return std::nullopt;
  return "zero 2 and 3 communicate in every micro-batch, of which all replicas must have as many: 0 or 1 with uneven "
         "shares";
}

}  // namespace plimsoll
