#include "launch/run_setup.hpp"

#include <algorithm>
#include <thread>

#include "launch/process.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

std::vector<std::string> data_paths(const Config& config) {
  std::vector<std::string> paths;
  for (const DataSource& s : config.data.train) paths.push_back(s.path);
  for (const std::string& s : config.data.validation_files) paths.push_back(s);
  return paths;
}

// Tokens of a micro-batch beyond which matrix products gain nothing on a CPU.
constexpr std::int64_t kMicroBatchTokens = 4096;

}  // namespace

std::unique_ptr<Tokenizer> data_tokenizer(const Config& config) { return load_common_tokenizer(data_paths(config)); }

void complete_vocabulary(Config& config, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) {
    require(config.model.vocabulary > 0, ErrorKind::Config,
            "model.vocabulary is auto, but the data ({}) have no tokenizer beside them to take it from: give model.vocabulary",
            config.data.train.empty() ? "none" : config.data.train.front().path);
    return;
  }
  if (config.model.vocabulary == 0) config.model.vocabulary = tokenizer->vocabulary();
  require(tokenizer->vocabulary() <= config.model.vocabulary, ErrorKind::Config,
          "model.vocabulary is {}, but the tokenizer of the data has {} ids", config.model.vocabulary, tokenizer->vocabulary());
}

int choose_threads(const Config& config, const Place& place) {
  if (config.run.threads) return static_cast<int>(*config.run.threads);
  return std::max(1, usable_cores() / place.local_ranks);
}

ProgramOptions choose_programs(const Config& config, const Place& place, Purpose purpose, std::int64_t budget_bytes,
                               std::int64_t outside_bytes) {
  ProgramOptions o;
  o.model = config.model;
  o.dtype = config.precision;
  o.sequence = config.data.sequence;
  o.threads = choose_threads(config, place);
  o.data_ranks = static_cast<int>(config.parallel.data.value_or(place.ranks));
  if (config.comm.bucket) o.bucket_bytes = *config.comm.bucket;
  o.optimizer = config.optimizer;
  if (purpose == Purpose::Generate) {
    o.cache_positions = config.model.positions;
    return o;
  }
  o.train = purpose == Purpose::Train;
  o.evaluate = purpose == Purpose::Evaluate || config.data.validation > 0 || !config.data.validation_files.empty();
  const std::int64_t share = (config.train.global_batch + o.data_ranks - 1) / o.data_ranks;
  o.micro_batch = config.train.micro_batch.value_or(1);
  if (config.train.micro_batch) return o;
  for (std::int64_t rows = share; rows > 1; --rows) {
    if (share % rows != 0 || rows * o.sequence > std::max(kMicroBatchTokens, o.sequence)) continue;
    o.micro_batch = rows;
    if (budget_bytes == 0 || build_programs(o).plan.total_bytes + outside_bytes <= budget_bytes) return o;
  }
  o.micro_batch = 1;
  return o;
}

std::int64_t choose_budget(const Config& config, const Place& place) {
  if (config.memory.budget) return *config.memory.budget;
  const DeviceMemory memory = make_cpu_device(1)->memory();
  return memory.free_bytes / 10 * 8 / place.local_ranks;
}

}  // namespace plimsoll
