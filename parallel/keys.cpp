// The keys of the parallel section.

#include "runtime/core/keys.hpp"
#include "parallel/config.hpp"

namespace plimsoll {
namespace {

constexpr double kMostRanks = 1 << 20;

bool read_word(ParallelConfig& parallel, const std::string& word) {
  if (word != "auto") return false;
  parallel = {};
  parallel.automatic = true;
  return true;
}

void read_stages(ParallelConfig& parallel, const ConfigNode& node, const KeyScope& scope) {
  parallel.stages.reset();
  if (node.is_word("auto") || !expect_list(node, scope)) return;
  if (node.items.empty()) scope.fault(node, "the list is empty");
  std::vector<std::int64_t>& stages = parallel.stages.emplace();
  for (const ConfigNode& item : node.items) read_value(item, at_least(1), scope, stages.emplace_back());
}

ConfigNode write_stages(const ParallelConfig& parallel) {
  if (!parallel.stages) return ConfigNode::scalar("auto");
  std::vector<ConfigNode> items;
  for (const std::int64_t layers : *parallel.stages) items.push_back(write_value(layers));
  return ConfigNode::list(std::move(items));
}

void read_shares(ParallelConfig& parallel, const ConfigNode& node, const KeyScope& scope) {
  parallel.shares.clear();
  parallel.auto_shares = node.is_word("auto");
  if (parallel.auto_shares || node.is_word("even") || !expect_list(node, scope)) return;
  if (node.items.empty()) scope.fault(node, "the list is empty");
  for (const ConfigNode& item : node.items) read_value(item, at_least(1), scope, parallel.shares.emplace_back());
}

ConfigNode write_shares(const ParallelConfig& parallel) {
  if (parallel.shares.empty()) return ConfigNode::scalar(parallel.auto_shares ? "auto" : "even");
  std::vector<ConfigNode> items;
  for (const std::int64_t share : parallel.shares) items.push_back(write_value(share));
  return ConfigNode::list(std::move(items));
}

}  // namespace

KeyTable<ParallelConfig> parallel_keys() {
  using C = ParallelConfig;
  return {
      .keys =
          {
              key("data", &C::data, between(1, kMostRanks), "ranks", "replicas; auto: ranks / (pipeline * tensor)"),
              key("pipeline", &C::pipeline, between(1, kMostRanks), "ranks", "stages"),
              key("tensor", &C::tensor, between(1, kMostRanks), "ranks", "ranks that share each layer"),
              key("zero", &C::zero, between(0, 3), "1",
                  "sharded over replicas: 1 optimizer state, 2 and gradients, 3 and parameters"),
              key("shard", &C::shard, between(1, kMostRanks), "ranks",
                  "replicas among which zero divides, neighbours on a node; auto: all"),
              key("sequence", &C::sequence, "sequence parallelism over the tensor axis"),
              key("tensor_chunks", &C::tensor_chunks, between(1, static_cast<double>(kMostTensorChunks)), "1",
                  "rows of a split linear are cut into as many; the collective of one overlaps the product of the "
                  "next; auto: what is fastest over the links of comm.cluster, or 1 where that names none"),
              key("schedule", &C::schedule, "order of the micro-batches in a pipeline"),
              key("interleave", &C::interleave, between(2, kMostRanks), "1",
                  "pieces of the model on each stage, with schedule: interleaved"),
              {"stages", "auto | list of integers", "layers", ">= 1",
               "of each piece of a pipeline, in the order of the model; auto: cut by cost", read_stages, write_stages},
              {"shares", "even | auto | list of integers", "micro-batches", ">= 1",
               "of each replica in a step; auto: by its speed, measured at the start", read_shares, write_shares},
          },
      .word = read_word,
      .as_word = [](const C& parallel) { return std::string(parallel.automatic ? "auto" : ""); }};
}

}  // namespace plimsoll
