#pragma once
// Which programs a run needs, their graphs, and one memory plan for all of them. Pure planning: no device, no MPI.

#include <limits>
#include <memory>
#include <optional>

#include "optim/config.hpp"
#include "parallel/mesh.hpp"
#include "runtime/graph/recompute.hpp"
#include "runtime/model/flat_layout.hpp"
#include "runtime/model/transformer.hpp"
#include "runtime/plan/bucket_sizes.hpp"
#include "runtime/plan/cost.hpp"
#include "runtime/plan/memory.hpp"
#include "runtime/plan/shard_sizes.hpp"

namespace plimsoll {

inline constexpr std::int64_t kNoHostLimit = std::numeric_limits<std::int64_t>::max();

// What a rank may offload to.
struct HostMemory {
  std::int64_t bytes = kNoHostLimit;
  bool offered = false;  // to what memory.recompute auto chooses
  bool overlap = false;  // copies have an engine of their own, and do not take the time of compute
};

// Whose links say how much is sent at once.
enum class LinkSource : std::uint8_t { None, Cluster, Profile };

struct ProgramOptions {
  ModelConfig model;  // resolved, with vocabulary
  DType dtype = DType::f32;
  bool fp8 = false;        // the layers' linears, in training
  FusedHeads fused_heads;  // of all GPUs of the run
  std::int64_t sequence = 256;
  std::int64_t micro_batch = 1;  // sequences per rank and forward
  int threads = 1;
  Mesh mesh;
  int rank = 0;  // the programs are those of this rank
  int zero = 0;
  bool sequence_parallel = false;
  int tensor_chunks = 1;                           // of split linears, in training and evaluation
  ScheduleKind schedule = ScheduleKind::OneFOneB;  // of a pipeline
  int chunks = 1;                                  // pieces of the model on each stage
  int pipeline_chunks = 1;                         // parts of the outputs that stages send on, …
  std::optional<PieceChoice> pipeline_choice;      // … and what they gain in a step, where links decided
  std::vector<std::int64_t> stage_layers;          // layers of each piece; empty: cut by cost
  // Of a step and replica: of each where they differ (`shares`), and of the one that has most. What is in flight in a
  // pipeline, and so its programs, depends on them; other programs do not.
  std::int64_t micro_batches = 1;
  std::vector<std::int64_t> shares;  // by replica; empty: all have micro_batches
  // Of what ZeRO divides, by rank of the shard axis: weights; empty: equal. Not with ZeRO 0.
  std::vector<std::int64_t> state_shares;
  // Of gradients that are summed at once; with ZeRO units are not cut. nullopt: without ZeRO `costs` decides, or
  // kFixedBucketBytes without it; …
  std::optional<std::int64_t> bucket_bytes;
  // … with ZeRO neighbouring units are summed as one up to so many bytes (0: each by itself), as many as fit or,
  // by_links, those that `costs` say are worth it.
  std::int64_t unit_bucket_bytes = 0;
  bool unit_buckets_by_links = false;
  // Without ZeRO: buckets are summed over the shard axis first, the ranks of a node, then over the replica axis.
  bool hierarchical = false;
  // ZeRO-3: neighbouring units are gathered as one up to so many bytes (0: each by itself), as many as fit or,
  // by_links, those that `costs` say are worth it; how many gathers ahead.
  std::int64_t gather_bytes = 0;
  bool gather_by_links = false;
  int prefetch = 1;
  // Of a plan that is followed, by stage: the bytes of each bucket, and the ends of the gathers among the uses. Where
  // they are no buckets or gathers of these programs, or empty, the above counts.
  std::vector<std::vector<std::int64_t>> planned_buckets, planned_gathers;
  std::shared_ptr<const CostModel> costs;        // what the machine is like; null: nobody said
  LinkSource links = LinkSource::None;           // where they are from
  std::optional<ShardGroupChoice> shard_choice;  // why mesh.shards, where links and memory decided
  std::int64_t logits_bytes = kLogitsBytes;
  std::vector<LayerRecompute> recompute;  // by layer of the model; empty: everything is kept
  HostMemory host;
  bool row_splits = true;  // memory.recompute auto may choose them
  OptimizerConfig optimizer;
  bool train = false;                // "train": forward, backward, reduction, update
  bool evaluate = false;             // "evaluate": the loss of a micro-batch
  bool logits = false;               // "logits": of a micro-batch
  std::int64_t cache_positions = 0;  // > 0: "prefill" (kPrefillTokens at a time) and "decode" (one token), one sequence
};

inline constexpr std::int64_t kPrefillTokens = 64;

// Micro-batches of a step on a rank, and the first replica that has most of them, and of those most of the state.
std::int64_t micro_batches_of(const ProgramOptions& options, int rank);
int largest_replica(const ProgramOptions& options);
// Do ranks of the shard axis have other parts of the state?
bool uneven_state(const ProgramOptions& options);
// Of a rank of that stage, in that replica: no rank of the stage needs more, unless the replica with most micro-batches
// has little of the state.
ProgramOptions at_stage(ProgramOptions options, int stage);
// Gives replicas uneven shares, or, with an empty list, all of them `micro_batches`.
void set_shares(ProgramOptions& options, std::vector<std::int64_t> shares, std::int64_t micro_batches);

// The gradients that are summed at once, in the order in which that is done.
struct GradientBuckets {
  std::vector<std::int64_t> bytes;
  std::optional<Buckets> chosen;        // what they are predicted to take, with ProgramOptions::costs
  std::optional<BucketChoice> against;  // the best, the usual and the single bucket
  int node_ranks = 1;                   // that sum among themselves first
  std::optional<Buckets> flat;          // of node_ranks > 1: the same over all ranks at once
  std::optional<Buckets> apart;         // with ZeRO: each unit by itself
  bool each_micro_batch = false;        // ZeRO-2 and 3: not once a step, and times are of a micro-batch
};

// ZeRO-3: how far ahead units are gathered, and which together.
struct GatherAhead {
  int distance = 1;
  std::int64_t most_bytes = 0;            // of a gather of several units; 0: there is none
  std::size_t gathers = 0, uses = 0;      // of a micro-batch
  std::vector<std::size_t> ends;          // of the gathers among the uses
  std::optional<Prefetch> apart;          // each unit by itself, with ProgramOptions::costs
  std::optional<Prefetch> chosen, usual;  // what they are predicted to take, with ProgramOptions::costs; usual: 1
  std::optional<Prefetch> plain;          // each unit by itself, one ahead
  std::optional<PrefetchChoice> against;  // the best, whatever memory allows, and none
};

// What chunks of split linears are predicted to save.
struct ChunkTimes {
  double micro_batch_s = 0;  // forward and backward of a micro-batch
  double whole_s = 0;        // the same with whole linears
};

// What ZeRO divides among the ranks of a shard group, at the stage of options.rank.
struct DividedState {
  std::int64_t bytes = 0;  // of all of them together; 0: nothing
  std::int64_t bytes_per_element = 0;
  std::int64_t unit = 1;  // elements that are not divided further
  // A rank with another part needs at most so much more than the plan with equal parts and the difference of the two:
  // what is rounded to cache lines, and what it receives before it is summed, which follows from how much is summed at
  // once.
  std::int64_t uneven_bytes = 0;
};
DividedState divided_state(const ProgramOptions& options);

// A tensor of the model, as a checkpoint has it.
struct ModelTensor {
  std::string name;
  Shape shape;
};
std::vector<ModelTensor> model_tensors(const ModelConfig& model);

struct Programs {
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Graph>> graphs;  // addresses stay
  std::vector<ModelTensor> tensors;            // of the whole model, on every rank the same
  FlatLayout layout;
  int shard_rank = 0;  // of layout.shards
  // Of a pipeline: what this rank's stage runs, and the first layer of each piece of the model.
  std::unique_ptr<Schedule> schedule;  // null: no pipeline
  int stage = 0;
  std::vector<int> cuts;
  // Whether this rank answers for what replicas have too: in buffers that ZeRO does not divide, and in those it does.
  bool owns_whole = true, owns_shards = true;
  int zero = 0;
  // Does ZeRO divide this flat buffer? A rank may have all of one, so its size does not say.
  bool divides(std::string_view region) const;
  DType dtype() const { return (*graphs.front())[graphs.front()->parameters.front().value].spec.dtype; }
  // Of the elements of a flat buffer; and of what is kept of the model in full, in which checkpoints are written.
  DType dtype_of(std::string_view region) const;
  DType wide() const { return wide_dtype(dtype()); }
  // The flat buffer with the parameters in full: master weights, or, where there are none, "parameters".
  std::string_view weights() const;
  MemoryPlan plan;
  std::optional<GradientBuckets> buckets;        // in training, where replicas sum gradients
  std::optional<GatherAhead> gathers;            // in training with ZeRO-3
  std::optional<ChunkTimes> chunk_times;         // in training with several chunks, with ProgramOptions::costs
  std::int64_t train_flops_per_micro_batch = 0;  // model FLOPs: forward + backward, from the op declarations
  // FLOPs of this rank, forward + backward, and what recomputation adds to them.
  std::int64_t rank_flops_per_micro_batch = 0, recompute_flops_per_micro_batch = 0;

  const Graph& graph(std::string_view name) const;
  bool has(std::string_view name) const;
  std::vector<Program> list() const;
};

Programs build_programs(const ProgramOptions& options);
// Their memory plan alone; `enough_bytes` as plan_memory() has it. `keeping`: the graph of keeping_graph(), for whoever
// plans one rank with several recomputations.
MemoryPlan plan_of(const ProgramOptions& options, std::int64_t enough_bytes = 0, const Graph* keeping = nullptr);
// The train program alone, without a plan, for what it is predicted to take: graph, buckets, gathers, chunk_times.
Programs timed_programs(const ProgramOptions& options);
// Forward and backward of this rank with everything kept, before parameters are placed and collectives of gradients are
// added: what the recompute planner looks at. The schedule is null without a pipeline.
struct KeepingGraph {
  Graph graph;
  std::unique_ptr<Schedule> schedule;
  int stage = 0;
};
KeepingGraph keeping_graph(const ProgramOptions& options);
// The same with what ProgramOptions::recompute says; linears are whole.
KeepingGraph rewritten_graph(const ProgramOptions& options);
// Forward and backward of a micro-batch on the streams of a rank, of such a graph. `options.costs` are there.
double micro_batch_seconds(const Graph& graph, const ProgramOptions& options);
// Why ProgramOptions::recompute cannot be had in keeping_graph(options), naming the layer; nullopt when it can.
std::optional<std::string> recompute_fault(const Graph& keeping, const ProgramOptions& options);
// Can MLPs run in blocks of rows beside the other pieces that linears are cut into, and the schedule?
bool allows_row_splits(const ProgramOptions& options);
// The first layer of each piece of a pipeline; empty without one.
std::vector<int> program_cuts(const ProgramOptions& options);
// Stages of which one has the largest plan: of those in the middle that hold as many layers and recompute the same of
// them, the first, which has most micro-batches in flight.
std::vector<int> distinct_stages(const ProgramOptions& options);
// A bound of the arena of these programs: whatever else of their layers is recomputed or offloaded, no plan of them is
// smaller.
std::int64_t least_arena_bytes(const Programs& programs, const ProgramOptions& options);

}  // namespace plimsoll
