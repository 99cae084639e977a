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

void read_shard(ParallelConfig& parallel, const ConfigNode& node, const KeyScope& scope) {
  parallel.shard.reset();
  parallel.auto_shard = node.is_word("auto");
  if (parallel.auto_shard || node.is_word("all")) return;
  read_value(node, between(1, kMostRanks), scope, parallel.shard.emplace());
}

ConfigNode write_shard(const ParallelConfig& parallel) {
  if (parallel.shard) return write_value(*parallel.shard);
  return ConfigNode::scalar(parallel.auto_shard ? "auto" : "all");
}

// How ranks share something: even, auto or a number for each.
Key<ParallelConfig> shares_key(std::string name, bool ParallelConfig::*automatic,
                               std::vector<std::int64_t> ParallelConfig::*listed, std::string unit,
                               std::string meaning) {
  return {std::move(name),
          "even | auto | list of integers",
          std::move(unit),
          ">= 1",
          std::move(meaning),
          [=](ParallelConfig& parallel, const ConfigNode& node, const KeyScope& scope) {
            std::vector<std::int64_t>& shares = parallel.*listed;
            shares.clear();
            parallel.*automatic = node.is_word("auto");
            if (parallel.*automatic || node.is_word("even") || !expect_list(node, scope)) return;
            if (node.items.empty()) scope.fault(node, "the list is empty");
            for (const ConfigNode& item : node.items) read_value(item, at_least(1), scope, shares.emplace_back());
          },
          [=](const ParallelConfig& parallel) {
            if ((parallel.*listed).empty()) return ConfigNode::scalar(parallel.*automatic ? "auto" : "even");
            std::vector<ConfigNode> items;
            for (const std::int64_t share : parallel.*listed) items.push_back(write_value(share));
            return ConfigNode::list(std::move(items));
          }};
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
              {"shard", "all | auto | integer", "ranks", between(1, kMostRanks).text(),
               "replicas among which zero divides, neighbours on a node; auto: as many as leave messages large enough "
               "for the links of comm.cluster or plan.profile, more where memory needs it, all where neither has any",
               read_shard, write_shard},
              key("sequence", &C::sequence, "sequence parallelism over the tensor axis"),
              key("tensor_chunks", &C::tensor_chunks, between(1, static_cast<double>(kMostTensorChunks)), "1",
                  "rows of a split linear are cut into as many; the collective of one overlaps the product of the "
                  "next; auto: what is fastest over the links of comm.cluster or plan.profile, or 1 where neither has "
                  "any"),
              key("schedule", &C::schedule, "order of the micro-batches in a pipeline"),
              key("interleave", &C::interleave, between(2, kMostRanks), "1",
                  "pieces of the model on each stage, with schedule: interleaved"),
              {"stages", "auto | list of integers", "layers", ">= 1",
               "of each piece of a pipeline, in the order of the model; auto: cut by cost", read_stages, write_stages},
              shares_key("shares", &C::auto_shares, &C::shares, "micro-batches",
                         "of each replica in a step; auto: by its speed, measured at the start"),
              shares_key("state_shares", &C::auto_state_shares, &C::state_shares, "weights",
                         "of what zero divides, of each rank of the shard axis; auto: by the memory that its "
                         "memory.budget leaves free"),
          },
      .word = read_word,
      .as_word = [](const C& parallel) { return std::string(parallel.automatic ? "auto" : ""); }};
}

}  // namespace plimsoll
