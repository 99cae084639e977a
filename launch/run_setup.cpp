#include "launch/run_setup.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <thread>

#include "comm/group.hpp"
#include "launch/backend.hpp"
#include "launch/cluster_file.hpp"
#include "launch/layout_choice.hpp"
#include "launch/message_sizes.hpp"
#include "launch/nearest_changes.hpp"
#include "launch/process.hpp"
#include "launch/recompute_choice.hpp"
#include "launch/roles.hpp"
#include "launch/run_costs.hpp"
#include "launch/shard_choice.hpp"
#include "launch/state_choice.hpp"
#include "parallel/overlap.hpp"
#include "parallel/rules.hpp"
#include "parallel/tensor.hpp"
#include "runtime/core/text.hpp"
#include "runtime/data/token_file.hpp"
#include "runtime/device/device.hpp"
#include "runtime/graph/row_splits.hpp"

namespace plimsoll {
namespace {

std::vector<std::string> data_paths(const Config& config) {
  std::vector<std::string> paths;
  for (const DataSource& s : config.data.train) paths.push_back(s.path);
  for (const std::string& s : config.data.validation_files) paths.push_back(s);
  return paths;
}

// Error(MissingInput) names the first file of tokens that is not there.
void require_data_files(const Config& config) {
  for (const std::string& path : data_paths(config))
    InputFile::open(is_regular_file(path) ? path : token_prefix(path) + ".bin");
}

// What a list keeps must be values of its layers, on every stage.
void check_kept_values(const Config& config, ProgramOptions o) {
  const auto lists = [](const LayerRecompute& layer) { return !layer.keep.empty() || !layer.offload.empty(); };
  if (!o.train || std::none_of(o.recompute.begin(), o.recompute.end(), lists)) return;
  o.micro_batches = o.mesh.pipeline;  // not chosen yet; values do not depend on them, but a schedule wants enough
  for (int stage = 0; stage < o.mesh.pipeline; ++stage) {
    const auto fault = keep_fault(keeping_graph(at_stage(o, stage)).graph, o.recompute);
    require(!fault, ErrorKind::Config, "{}: {}", key_place(config, "memory.recompute"), fault.value_or(""));
  }
}

// Tokens of a micro-batch beyond which matrix products gain nothing on a CPU.
constexpr std::int64_t kMicroBatchTokens = 4096;

// Where stages pass micro-batches on, (stages - 1) / (micro-batches + stages - 1) of the time is lost: with four for
// each stage, less than a fifth.
constexpr std::int64_t kMicroBatchesPerStage = 4;

// A share that follows a replica's speed is in whole micro-batches: with as many to an even one, it is off by less than
// a sixteenth of it.
constexpr std::int64_t kMicroBatchesPerShare = 8;

bool feeds_stages(const Config& config, std::int64_t micro_batches, std::int64_t share) {
  const ParallelConfig& p = config.parallel;
  if (p.auto_shares && p.data.value_or(1) > 1 && micro_batches < std::min(share, kMicroBatchesPerShare)) return false;
  if (p.pipeline == 1) return true;
  if (p.schedule == PipelineSchedule::Interleaved && micro_batches % p.pipeline != 0) return false;
  return micro_batches >= std::min(share, kMicroBatchesPerStage * p.pipeline);
}

std::vector<std::int64_t> micro_batch_choices(const Config& config, std::int64_t share) {
  if (config.train.micro_batch) return {*config.train.micro_batch};
  const std::vector<std::int64_t>& shares = config.parallel.shares;
  if (!shares.empty())
    return {config.train.global_batch /
            std::max<std::int64_t>(1, std::accumulate(shares.begin(), shares.end(), std::int64_t{0}))};
  std::vector<std::int64_t> choices;
  const std::int64_t most = std::max<std::int64_t>(1, kMicroBatchTokens / config.data.sequence);
  for (std::int64_t rows = std::min(share, most); rows > 0; --rows) {
    const bool in_chunks =
        !tensor_chunks_fault(rows, config.data.sequence, config.parallel.sequence.value_or(false),
                             config.parallel.tensor_chunks.value_or(1)) &&
        rows * config.data.sequence % config.comm.pipeline_chunks.value_or(1) == 0 &&
        std::all_of(config.memory.recompute_layers.begin(), config.memory.recompute_layers.end(),
                    [&](const LayerRecompute& l) { return rows * config.data.sequence % l.rows == 0; });
    const bool in_fp8 = config.fp8 == Fp8Use::Off || config.device == DeviceKind::Cpu ||
                        rows * config.data.sequence % kFp8Multiple == 0;
    const bool feeds = rows == 1 || feeds_stages(config, share / rows, share);
    if (share % rows == 0 && in_chunks && in_fp8 && feeds) choices.push_back(rows);
  }
  if (choices.empty()) choices.push_back(1);  // what is wrong is said where it is built
  return choices;
}

std::vector<std::int64_t> logits_choices(const Config& config) {
  if (config.memory.logits) return {*config.memory.logits};
  return {kLogitsBytes, kLogitsBytes / 2, kLogitsBytes / 4, kLogitsBytes / 8};
}

constexpr std::int64_t kChunksOfLogits = 8;  // more than are ever live at once

// Of each layer; empty: none of them recomputes, as far as the configuration says.
std::vector<LayerRecompute> recompute_layers(const Config& config) {
  const MemoryConfig& memory = config.memory;
  std::vector<LayerRecompute> layers = memory.recompute_layers;
  const bool all = memory.recompute != RecomputeMode::Auto && memory.recompute != RecomputeMode::None;
  if (layers.empty() && all) layers.assign(static_cast<std::size_t>(config.model.layers), {memory.recompute, {}});
  return layers;
}

// Of equal descriptions the same object: plans are known by it.
std::shared_ptr<const CostModel> described_costs(const ClusterDescription& cluster, KernelsOf kernels) {
  using Key = std::pair<ClusterDescription, KernelsOf>;
  struct Described {
    explicit Described(const Key& key) : costs(key.first, key.second) {}
    bool is_of(const Key& key) const { return costs.cluster() == key.first && costs.kernels() == key.second; }
    DescribedCosts costs;
  };
  static Remembered<Described, Key> known(4);
  const std::shared_ptr<Described> found = known.of({cluster, kernels});
  return {found, &found->costs};
}

// Bytes that the first rank whose plan does not fit lacks at least; 0: all fit. `arena_bytes` 0: no limit.
std::int64_t lacking_bytes(const ProgramOptions& o, std::int64_t arena_bytes) {
  if (arena_bytes == 0 && o.host.bytes == kNoHostLimit) return 0;
  for (const int stage : distinct_stages(o)) {  // they differ, and all ranks must choose alike
    const PlannedBytes plan = known_bytes(at_stage(o, stage), arena_bytes);
    if (arena_bytes > 0 && plan.arena > arena_bytes) return std::max<std::int64_t>(1, plan.least - arena_bytes);
    if (plan.host > o.host.bytes) return plan.host - o.host.bytes;
  }
  return 0;
}

bool fits_everywhere(const ProgramOptions& o, std::int64_t arena_bytes) { return lacking_bytes(o, arena_bytes) == 0; }

// Chooses train.micro_batch, memory.logits and memory.recompute where they are auto.
class Sizes {
 public:
  Sizes(const Config& config, ProgramOptions options, std::int64_t arena_bytes, const CostModel& costs, Effort effort)
      : config_(config), o_(std::move(options)), arena_bytes_(arena_bytes), costs_(costs), effort_(effort) {}

  // A smaller chunk of logits costs less time than a smaller micro-batch; where micro-batches fit only if activations
  // are made again, the predicted time of the step decides, but for row-splits: they change the order of sums, and any
  // choice without them comes first. When nothing fits, the least is what is reported.
  ProgramOptions choose(std::optional<RecomputeChoice>* chosen) {
    const std::int64_t share = (config_.train.global_batch + o_.mesh.data - 1) / o_.mesh.data;
    const std::vector<LayerRecompute> given = o_.recompute;
    std::optional<ProgramOptions> best;
    std::pair<bool, double> best_cost;  // with row-splits?
    const std::vector<std::int64_t> choices = micro_batch_choices(config_, share);
    for (const std::int64_t rows : choices) {
      use_rows(rows, share);
      o_.recompute = given;
      const bool fits = fits_with_some_logits();
      fits_ = fits_ || fits;
      if (fits && !best) return o_;
      if (!fits && !recomputes()) continue;
      // The bytes are known to suffice or not to; this says what it costs.
      RecomputeChoice choice = choose_recompute(o_, costs_, arena_bytes_, rows == choices.back(), effort_);
      o_.recompute = choice.layers;
      const std::pair cost{has_row_splits(choice.layers), choice.step_seconds};
      const bool better = choice.fits && (!best || cost < best_cost);
      if (better) {
        fits_ = true;
        best = o_;
        best_cost = cost;
      }
      if (chosen != nullptr && (better || !best)) *chosen = std::move(choice);
      if (fits) break;
    }
    return best.value_or(o_);
  }
  bool fits() const { return fits_; }  // what was chosen

  // Before choose(). parallel.shard: auto, for the largest micro-batch and what is recomputed without need: a shard
  // more costs less time than work that is done again. A run that does not fit over all replicas measures nothing.
  void choose_shard_ranks(std::int64_t ranks_per_node, const std::function<const CostModel*()>& links) {
    const std::int64_t share = (config_.train.global_batch + o_.mesh.data - 1) / o_.mesh.data;
    use_rows(micro_batch_choices(config_, share).front(), share);
    o_.logits_bytes = logits_choices(config_).front();
    const auto fit = [this](const ProgramOptions& with) { return fits_everywhere(with, arena_bytes_); };
    const CostModel* costs = fit(o_) ? links() : nullptr;
    if (costs == nullptr) return;
    o_.shard_choice = choose_shards(o_, *costs, ranks_per_node, fit);
    o_.mesh.shards = o_.shard_choice->ranks;
  }

 private:
  void use_rows(std::int64_t rows, std::int64_t share) {
    o_.micro_batch = rows;
    set_shares(o_, config_.parallel.shares, std::max<std::int64_t>(1, share / rows));
  }
  bool recomputes() const { return o_.train && arena_bytes_ > 0 && config_.memory.recompute == RecomputeMode::Auto; }

  bool fits_with_some_logits() {
    const std::vector<std::int64_t> choices = logits_choices(config_);
    for (const std::int64_t logits_bytes : choices) {
      o_.logits_bytes = logits_bytes;
      const std::int64_t lacking = lacking_bytes(o_, arena_bytes_);
      if (lacking == 0) return true;
      // No smaller chunk saves that much: of logits, their gradient and what a kernel needs there are a few.
      if (lacking > kChunksOfLogits * logits_bytes) break;
    }
    o_.logits_bytes = choices.back();
    return false;
  }

  const Config& config_;
  ProgramOptions o_;
  std::int64_t arena_bytes_;  // 0: no limit
  const CostModel& costs_;
  Effort effort_;
  bool fits_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> data_tokenizer(const Config& config) {
  return load_common_tokenizer(data_paths(config), key_place(config, "data.train"));
}

void complete_vocabulary(Config& config, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) {
    if (config.model.vocabulary == 0) require_data_files(config);
    require(config.model.vocabulary > 0, ErrorKind::Config,
            "{}: is auto, but the data ({}) have no tokenizer beside them to take it from: give model.vocabulary",
            key_place(config, "model.vocabulary", {"data.train"}),
            config.data.train.empty() ? "none" : config.data.train.front().path);
    return;
  }
  if (config.model.vocabulary == 0) config.model.vocabulary = tokenizer->vocabulary();
  require(tokenizer->vocabulary() <= config.model.vocabulary, ErrorKind::Config,
          "{}: is {}, but the tokenizer of the data has {} ids", key_place(config, "model.vocabulary", {"data.train"}),
          config.model.vocabulary, tokenizer->vocabulary());
}

std::vector<std::uint64_t> hosts_of(const Group& control) {
  std::vector<std::uint64_t> hosts(static_cast<std::size_t>(control.size()));
  const std::uint64_t mine = std::hash<std::string>{}(host_name());
  control.gather_values(&mine, sizeof(mine), hosts.data());
  return hosts;
}

double cores_of_rank(const Group& control) {
  const std::vector<std::uint64_t> hosts = hosts_of(control);
  std::vector<CoreMask> all(hosts.size()), on_host;
  const CoreMask mine = core_mask();
  control.gather_values(&mine, sizeof(mine), all.data());
  std::size_t here = 0;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (static_cast<int>(rank) == control.rank()) here = on_host.size();
    if (hosts[rank] == hosts[static_cast<std::size_t>(control.rank())]) on_host.push_back(all[rank]);
  }
  return share_of_cores(on_host, here);
}

int choose_threads(const Config& config, const Place& place) {
  if (config.run.threads) return static_cast<int>(*config.run.threads);
  return place.cores > 0 ? threads_of(place.cores) : std::max(1, usable_cores() / place.local_ranks);
}

Mesh choose_mesh(const Config& config, int ranks) {
  Mesh mesh;
  mesh.pipeline = static_cast<int>(config.parallel.pipeline);
  mesh.tensor = static_cast<int>(config.parallel.tensor);
  mesh.data = static_cast<int>(config.parallel.data.value_or(ranks / (mesh.pipeline * mesh.tensor)));
  mesh.kv_copies = TensorParallel{mesh.tensor, 0, false}.kv_copies(config.model);
  mesh.shards = static_cast<int>(config.parallel.shard.value_or(mesh.data));
  return mesh;
}

ProgramOptions choose_programs(const Config& config, const Place& place, Purpose purpose, const RankBudgets& budgets,
                               std::int64_t outside_bytes, std::int64_t host_bytes, const CostModel* costs,
                               std::shared_ptr<const ProfiledCosts> measured, std::optional<RecomputeChoice>* recompute,
                               Effort effort) {
  ProgramOptions o;
  o.model = config.model;
  o.dtype = config.precision;
  o.fp8 = config.fp8 == Fp8Use::Linears;
  o.fused_heads = fused_heads_of(config);
  o.sequence = config.data.sequence;
  o.threads = config.device == DeviceKind::Cuda ? kDeviceThreads : choose_threads(config, place);
  o.mesh = choose_mesh(config, place.ranks);
  o.rank = place.rank;
  o.zero = static_cast<int>(config.parallel.zero.value_or(0));
  o.sequence_parallel = config.parallel.sequence.value_or(false);
  o.tensor_chunks = static_cast<int>(config.parallel.tensor_chunks.value_or(1));
  o.schedule = config.parallel.schedule;
  o.chunks = static_cast<int>(config.parallel.chunks());
  o.pipeline_chunks = static_cast<int>(config.comm.pipeline_chunks.value_or(1));
  o.stage_layers = config.parallel.stages.value_or(std::vector<std::int64_t>{});
  o.bucket_bytes = config.comm.bucket;
  o.prefetch = static_cast<int>(config.comm.prefetch.value_or(1));
  o.gather_bytes = config.comm.gather.value_or(0);
  o.planned_buckets = config.comm.planned_buckets;
  o.planned_gathers = config.comm.planned_gathers;
  if (!config.comm.cluster.empty()) {
    o.costs = described_costs(load_cluster(config.comm.cluster), kernels_of(config));
    o.links = LinkSource::Cluster;
  }
  o.recompute = recompute_layers(config);
  // The CPU's own memory is where the rest is too, and its cores do the copies: nobody gains by that unasked.
  // Nothing may wait where there is no room: the choices, and what is proven of them, are those without.
  o.host = {host_bytes, config.memory.host_budget.value_or(0) > 0, !config.comm.cluster.empty()};
  o.row_splits = config.memory.row_splits;
  o.optimizer = config.optimizer;
  if (purpose == Purpose::Generate) {
    o.cache_positions = config.model.positions;
    return o;
  }
  o.train = purpose == Purpose::Train;
  o.evaluate = purpose == Purpose::Evaluate || config.data.validation > 0 || !config.data.validation_files.empty();
  const std::int64_t arena = even_arena_bytes(config.parallel, o, budgets, outside_bytes);
  check_kept_values(config, o);
  std::optional<DescribedCosts> described;
  if (costs == nullptr) costs = &described.emplace(choose_cluster(config), kernels_of(config));
  const bool divides = o.train && o.zero > 0 && o.mesh.data > 1;
  Sizes sizes(config, std::move(o), arena, *costs, effort);
  if (config.parallel.auto_shard && divides) {
    const std::int64_t on_a_node =
        config.comm.cluster.empty() ? place.local_ranks : choose_cluster(config).devices_per_node;
    sizes.choose_shard_ranks(on_a_node, [&]() -> const CostModel* {
      using enum LinkOperation;
      if (!config.comm.cluster.empty()) return costs;
      return measured && measured->measures(AllGather) && measured->measures(ReduceScatter) ? measured.get() : nullptr;
    });
  }
  o = sizes.choose(recompute);
  // A run that does not fit measures nothing more.
  if (config.plan.measured_links && measured && sizes.fits() && covers_collectives(*measured, config, o)) {
    o.costs = std::move(measured);
    o.links = LinkSource::Profile;
  }
  // With other shares a rank may need more for what is summed together.
  const bool uneven = config.parallel.auto_state_shares || !config.parallel.state_shares.empty();
  const std::int64_t apart = uneven ? divided_state(o).uneven_bytes : 0;
  o = choose_message_sizes(config, std::move(o), [&](const ProgramOptions& with) {
    const std::int64_t more = uneven ? divided_state(with).uneven_bytes - apart : 0;
    return arena == 0 ? fits_everywhere(with, 0) : fits_everywhere(with, std::max<std::int64_t>(1, arena - more));
  });
  o.state_shares = choose_state_shares(config.parallel, o, budgets, outside_bytes);
  return o;
}

void check_reserve(const Config& config, std::int64_t least_bytes) {
  const std::int64_t reserve = config.memory.reserve.value_or(least_bytes);
  require(reserve >= least_bytes, ErrorKind::OutOfMemory,
          "{}: is {}, but what a rank has outside the arena, with room for what libraries take later, is {} ({} "
          "bytes): give at least that, or auto, which measures it",
          key_place(config, "memory.reserve"), format_bytes(reserve), format_bytes(least_bytes), least_bytes);
}

namespace {

// The choices that usually need least memory; nullopt where this batch and these ranks do not allow them.
std::optional<Config> least_choices(const Config& config, int ranks) {
  Config least = config;
  if (config.parallel.automatic) {
    least.parallel = {};
    least.parallel.zero = ranks > 1 ? 3 : 0;
    least.parallel.data = ranks;
    if (!rank_issues(least.parallel, ranks, config.train.global_batch, config.train.micro_batch).empty())
      return std::nullopt;
  }
  least.parallel.auto_shard = false;  // over all replicas
  const std::int64_t replicas = choose_mesh(least, ranks).data;
  least.train.micro_batch = micro_batch_choices(least, (config.train.global_batch + replicas - 1) / replicas).back();
  least.memory.logits = logits_choices(least).back();
  if (least.memory.recompute == RecomputeMode::Auto && least.memory.recompute_layers.empty())
    least.memory.recompute = RecomputeMode::Full;
  return least;
}

}  // namespace

std::optional<Infeasible> find_infeasible(const Config& config, const Place& place, Purpose purpose,
                                          const RankBudgets& budgets, std::int64_t outside_bytes,
                                          std::int64_t host_bytes) {
  const DescribedCosts described(choose_cluster(config), kernels_of(config));
  // Planned once, it tells most runs that fit from the others.
  if (const auto least = least_choices(config, place.ranks)) {
    const ProgramOptions o = choose_programs(*least, place, purpose, budgets, outside_bytes, host_bytes, &described);
    if (fits_everywhere(o, std::max<std::int64_t>(1, budgets.least() - outside_bytes))) return std::nullopt;
  }
  Config chosen = config;
  choose_layout(chosen, place, {choose_cluster(config), &described}, budgets.least(), outside_bytes);
  const ProgramOptions o = choose_programs(chosen, place, purpose, budgets, outside_bytes, host_bytes, &described);
  const std::vector<RankRole> roles = rank_roles(o);
  auto fault = check_budget(roles, budgets, outside_bytes);
  if (!fault) fault = check_host_budget(roles, host_bytes);
  const bool layout_chosen = config.parallel.automatic;
  if (fault)
    add_nearest_changes(*fault, {chosen, layout_chosen, place, purpose, budgets, outside_bytes, host_bytes, &described},
                        o);
  return fault;
}

std::int64_t choose_budget(const Config& config, const Backend& backend) {
  if (config.memory.budget) return *config.memory.budget;
  return free_bytes(backend) / 100 * (backend.device->outside_bytes() ? 95 : 80);
}

RankBudgets given_budgets(const Config& config, int ranks) {
  const std::vector<std::int64_t>& listed = config.memory.budgets;
  if (listed.empty()) return config.memory.budget.value_or(0);
  const Mesh mesh = choose_mesh(config, ranks);
  std::vector<std::int64_t> by_rank;
  for (int rank = 0; rank < ranks; ++rank)
    by_rank.push_back(listed[static_cast<std::size_t>(coordinates(mesh, rank).data % mesh.shards)]);
  return RankBudgets(std::move(by_rank));
}

std::int64_t choose_host_budget(const Config& config, const Place& place, const Backend& backend,
                                std::int64_t budget_bytes) {
  if (config.memory.host_budget) return *config.memory.host_budget;
  const DeviceMemory memory = make_cpu_device(1)->memory();
  const std::int64_t taken = backend.device->outside_bytes() ? 0 : budget_bytes;
  return std::max<std::int64_t>(0, memory.free_bytes / place.local_ranks - taken) / 10 * 8;
}

}  // namespace plimsoll
