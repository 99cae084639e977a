#include "launch/choices.hpp"

#include <fmt/ranges.h>

#include "launch/layout_choice.hpp"
#include "launch/plan_report.hpp"
#include "launch/process.hpp"
#include "launch/recompute_report.hpp"
#include "optim/schedule.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {

namespace {

// What is summed at once.
std::string bucket_choice(const ProgramOptions& options) {
  if (options.zero == 0) return options.costs ? link_source_text(options.links) : format_bytes(kFixedBucketBytes);
  if (options.unit_bucket_bytes == 0) return "each unit by itself";
  return fmt::format("units of up to {}, {}", format_bytes(options.unit_bucket_bytes), link_source_text(options.links));
}

}  // namespace

Choices run_choices(const Config& config, const ProgramOptions& options, const RankBudgets& budgets,
                    std::int64_t outside, std::int64_t host_budget, int ranks) {
  const bool alone = ranks == 1, cuda = config.device == DeviceKind::Cuda;
  const ScheduleConfig& s = config.schedule;
  const std::string sums = options.hierarchical ? fmt::format("on, {} ranks of a node", options.mesh.shards) : "off";
  return {{"model.rope.original_positions", "none: only the llama3 scaling has it"},
          {"data.dtype", "what each file says"},
          {"parallel", parallel_line(config.parallel)},
          {"train.micro_batch", std::to_string(options.micro_batch)},
          {"train.eval_batches", "all"},
          {"schedule.decay_steps",
           s.name == ScheduleName::Wsd ? std::to_string(decay_steps(s, config.train.steps)) : "none"},
          {"parallel.data", std::to_string(options.mesh.data)},
          {"parallel.shard", std::to_string(options.mesh.shards)},
          {"parallel.tensor_chunks", std::to_string(options.tensor_chunks)},
          {"parallel.stages", options.mesh.pipeline > 1 ? "cut by cost" : "none"},
          {"parallel.shares", options.shares.empty() ? "even" : fmt::format("{}", options.shares)},
          {"parallel.state_shares", options.state_shares.empty() ? "even" : fmt::format("{}", options.state_shares)},
          {"memory.budget", (budgets.differ() ? "from " : "") + format_bytes(budgets.least())},
          {"memory.recompute", options.recompute.empty() ? "none" : recompute_line(options.recompute)},
          {"memory.logits", format_bytes(options.logits_bytes)},
          {"memory.reserve",
           fmt::format("{} measured{} and {} allowed for libraries", format_bytes(outside - allowance_bytes(cuda)),
                       cuda ? " on the device" : "", format_bytes(allowance_bytes(cuda)))},
          {"plan.profile", "in the cache of the user"},
          {"memory.host_budget", format_bytes(host_budget)},
          {"comm.transport", alone  ? "self"
                             : cuda ? std::string(to_text(config.comm.transport))
                                    : "mpi"},
          {"comm.bucket", bucket_choice(options)},
          {"comm.prefetch", options.zero == 3 ? std::to_string(options.prefetch) : "none"},
          {"comm.gather", options.zero != 3           ? "none"
                          : options.gather_bytes == 0 ? "each unit by itself"
                                                      : format_bytes(options.gather_bytes)},
          {"comm.hierarchical", sums},
          {"comm.pipeline_chunks", std::to_string(options.pipeline_chunks)},
          {"comm.cluster",
           cuda ? config.gpu.name + (config.gpu.measured ? ", measured" : "") : std::string("a CPU core per rank")},
          {"comm.collectives", alone                                          ? "none"
                               : config.comm.transport == TransportName::Nccl ? "NCCL's"
                                                                              : "own"},
          {"comm.deadline", alone ? "none" : "5 median steps, at least 30 s"},
          {"run.threads", options.threads == kDeviceThreads ? "the cores of a rank" : std::to_string(options.threads)}};
}

}  // namespace plimsoll
