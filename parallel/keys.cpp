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

}  // namespace

KeyTable<ParallelConfig> parallel_keys() {
  using C = ParallelConfig;
  return {.keys =
              {
                  key("data", &C::data, between(1, kMostRanks), "ranks", "replicas; auto: ranks / (pipeline * tensor)"),
                  key("pipeline", &C::pipeline, between(1, kMostRanks), "ranks", "stages"),
                  key("tensor", &C::tensor, between(1, kMostRanks), "ranks", "ranks that share each layer"),
                  key("zero", &C::zero, between(0, 3), "1",
                      "sharded over replicas: 1 optimizer state, 2 and gradients, 3 and parameters"),
                  key("shard", &C::shard, between(1, kMostRanks), "ranks",
                      "replicas among which zero divides, neighbours on a node; auto: all"),
                  key("sequence", &C::sequence, "sequence parallelism over the tensor axis"),
                  key("schedule", &C::schedule, "order of the micro-batches in a pipeline"),
              },
          .word = read_word};
}

}  // namespace plimsoll
