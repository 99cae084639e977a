#include "launch/programs.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "comm/group.hpp"
#include "launch/known_plans.hpp"
#include "launch/message_sizes.hpp"
#include "optim/fp8.hpp"
#include "optim/update.hpp"
#include "parallel/data.hpp"
#include "parallel/overlap.hpp"
#include "parallel/pipeline.hpp"
#include "parallel/tensor.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/graph/offload.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/recompute_bound.hpp"

namespace plimsoll {
namespace {

DataParallel data_parallel(const ProgramOptions& o) {
  DataParallel data;
  data.ranks = o.mesh.data;
  data.zero = o.mesh.data > 1 ? o.zero : 0;  // one replica has nobody to divide with
  data.shards = data.zero > 0 ? o.mesh.shards : 1;
  data.shard_rank = coordinates(o.mesh, o.rank).data % data.shards;
  data.bucket_bytes = o.bucket_bytes.value_or(kFixedBucketBytes);
  data.prefetch = o.prefetch;
  if (sums_by_nodes(o)) {
    data.node_ranks = o.mesh.shards;
    data.node_rank = coordinates(o.mesh, o.rank).data % o.mesh.shards;
  }
  return data;
}

TensorParallel tensor_parallel(const ProgramOptions& o) {
  return {o.mesh.tensor, coordinates(o.mesh, o.rank).tensor, o.sequence_parallel};
}

PipelineParallel pipeline_parallel(const ProgramOptions& o) {
  return {o.mesh.pipeline, coordinates(o.mesh, o.rank).pipeline, o.chunks};
}

ModelShape train_shape(const ProgramOptions& o) {
  return {o.micro_batch, o.sequence, Head::Loss, o.dtype, o.logits_bytes, 0, true, {}, o.fp8, o.fused_heads};
}

// The forward graph of this rank.
Graph forward_graph(const ProgramOptions& o, const Programs& p, ModelShape shape) {
  if (!p.cuts.empty()) shape.parts = stage_parts(o.model, p.cuts, pipeline_parallel(o));
  Graph whole = build_transformer(o.model, shape);
  if (o.mesh.tensor == 1) return whole;
  const TensorParallel tensor = tensor_parallel(o);
  if (auto fault = tensor_parallel_fault(o.model, shape.sequence, tensor))
    fail(ErrorKind::Config, "parallel.tensor: {}", *fault);
  return split_over_tensor(whole, o.model, tensor);
}

std::optional<std::string> chunks_fault(const ProgramOptions& o) {
  if (o.mesh.tensor == 1) return std::nullopt;
  return tensor_chunks_fault(o.micro_batch, o.sequence, o.sequence_parallel, o.tensor_chunks);
}

// Of a finished graph of whole micro-batches; chunks of generated tokens would be too short to gain anything.
void overlap_split_linears(Graph& graph, const ProgramOptions& o) {
  if (o.mesh.tensor == 1) return;
  if (auto fault = chunks_fault(o)) fail(ErrorKind::Config, "parallel.tensor_chunks: {}", *fault);
  overlap_linears(graph, o.tensor_chunks);
}

// Forward and backward of this rank.
Graph differentiated_graph(const ProgramOptions& o, const Programs& p) {
  Graph graph = forward_graph(o, p, train_shape(o));
  BackwardOptions backward;
  if (p.schedule) {
    const std::vector<int>& slots = p.schedule->slots[static_cast<std::size_t>(p.stage)];
    if (slots.size() > 1 || slots.front() > 1) keep_inputs_in_slots(graph);
    // The same arithmetic in all schedules, so that they give the same bits.
    backward = {true, o.schedule == ScheduleKind::ZbH1};
  }
  add_backward(graph, backward);
  return graph;
}

// memory.recompute: what is made again, what goes to host memory, and what runs in blocks of rows.
void rewrite_activations(Graph& graph, const ProgramOptions& o) {
  if (auto fault = recompute_fault(graph, o)) fail(ErrorKind::Config, "memory.recompute: {}", *fault);
  const std::vector<ValueId> sent = offloaded_values(graph, o.recompute);
  recompute(graph, keep_sets(graph, o.recompute));
  offload(graph, sent);
  split_rows(graph, o.recompute);
}

// The parameters of a model, on one rank.
struct WholeModel {
  explicit WholeModel(const ModelConfig& m) : model(m), graph(build_transformer(m, {1, 1, Head::Hidden})) {}
  bool is_of(const ModelConfig& m) const { return model == m; }
  ModelConfig model;
  Graph graph;
};
std::shared_ptr<const WholeModel> whole_model(const ModelConfig& model) {
  static Remembered<WholeModel, ModelConfig> known(4);
  return known.of(model);
}

// What this rank's stage of a pipeline runs.
void add_schedule(const ProgramOptions& o, Programs& p) {
  if (o.mesh.pipeline == 1) return;
  p.stage = coordinates(o.mesh, o.rank).pipeline;
  p.cuts = program_cuts(o);
  p.schedule = std::make_unique<Schedule>(
      make_schedule(o.schedule, o.mesh.pipeline, static_cast<int>(micro_batches_of(o, o.rank)), o.chunks));
}

// How a plan is made: with the predicted times of what is communicated, for reports; see plan_of().
struct Planning {
  bool timed = true;
  std::int64_t enough_bytes = 0;
  const Graph* keeping = nullptr;
};

Graph train_graph(const ProgramOptions& o, Programs& p, const Planning& planning) {
  const bool timed = planning.timed;
  const std::int64_t scratch = reduce_scratch_bytes(o.mesh.longest_axis());
  DataParallel data = data_parallel(o);
  Graph graph = planning.keeping != nullptr ? *planning.keeping : differentiated_graph(o, p);
  rewrite_activations(graph, o);
  if (timed && o.costs && o.mesh.tensor > 1 && o.tensor_chunks > 1) {
    Graph whole = graph;
    overlap_linears(whole, 1);
    p.chunk_times.emplace().whole_s = micro_batch_seconds(whole, o);
  }
  overlap_split_linears(graph, o);
  if (p.chunk_times) p.chunk_times->micro_batch_s = micro_batch_seconds(graph, o);
  UpdateOptions update{o.optimizer, data.shard_rank, {{"shard", data.shards}, {"tensor", o.mesh.tensor}}, {},
                       0,           scratch};
  if (o.mesh.tensor > 1) sum_split_gradients(graph, o.model, tensor_parallel(o), data.zero >= 2, scratch);
  if (p.schedule) {
    if (auto fault = pipeline_chunks_fault(o.model, o.mesh.tensor, o.micro_batch * o.sequence, o.pipeline_chunks))
      fail(ErrorKind::Config, "comm.pipeline_chunks: {}", *fault);
    cut_outputs(graph, o.pipeline_chunks);
    add_message_buffers(graph, true);
    if (data.zero < 2) sum_tied_gradients(graph, o.model, pipeline_parallel(o), scratch);
    const auto whole = whole_model(o.model);
    update.places = places_in_model(graph, whole->graph);
    update.tensors = static_cast<std::int64_t>(whole->graph.parameters.size());
    update.norm_axes.push_back({"pipeline", o.mesh.pipeline});
  }
  const FlatLayout layout = flat_layout(graph, data.shards, o.state_shares);
  if (o.threads == kDeviceThreads) {
    if (const auto fault = fp8_size_fault(graph)) fail(ErrorKind::Config, "fp8: {}", *fault);
  }
  if (data.ranks > 1) p.buckets = size_buckets(o, graph, layout, data, timed);
  data.gather_ends = size_gathers(o, graph, layout);
  if (timed && data.shards > 1 && data.zero == 3) p.gathers = time_gathers(o, graph, layout);
  place_parameters(graph, layout, data);
  place_gradients(graph, layout, data, scratch);
  if (p.schedule && data.zero >= 2)
    sum_tied_shards(graph, o.model, pipeline_parallel(o), layout, data.shard_rank, scratch);
  // One launch on a GPU, where no unit's gather waits behind it. On a CPU equal units are measured once.
  update.by_unit = o.threads != kDeviceThreads || data.zero == 1 || data.zero == 2;
  add_update(graph, layout, update);
  gather_updated(graph, layout, data);
  const std::array axes{NormAxis{"data", data.ranks}, NormAxis{"tensor", o.mesh.tensor}};
  add_fp8_update(graph, axes, scratch);
  if (p.schedule) share_loss(graph, pipeline_parallel(o), scratch);
  return graph;
}

Graph inference_graph(const ProgramOptions& o, const Programs& p, std::int64_t batch, std::int64_t sequence, Head head,
                      std::int64_t cache) {
  ModelShape shape{batch, sequence, head, o.dtype, o.logits_bytes, cache};
  shape.backward = false;
  shape.fused_heads = o.fused_heads;
  Graph graph = forward_graph(o, p, shape);
  if (head == Head::Loss) {
    if (auto fault = row_split_fault(graph, o.recompute)) fail(ErrorKind::Config, "memory.recompute: {}", *fault);
    split_rows(graph, o.recompute);
  }
  if (cache == 0) overlap_split_linears(graph, o);
  if (p.schedule) {
    graph.message_parts = o.pipeline_chunks;
    add_message_buffers(graph, false);
  }
  const DataParallel data = data_parallel(o);
  place_parameters(graph, flat_layout(graph, data.shards, o.state_shares), data);
  return graph;
}

// Model FLOPs of a micro-batch, of all ranks of a replica together.
std::int64_t train_flops(const ProgramOptions& o) {
  Graph whole = build_transformer(o.model, train_shape(o));
  add_backward(whole);
  return count_flops(whole, {Phase::Forward, Phase::InputGrad, Phase::WeightGrad});
}

}  // namespace

std::int64_t micro_batches_of(const ProgramOptions& o, int rank) {
  return o.shares.empty() ? o.micro_batches : o.shares[static_cast<std::size_t>(coordinates(o.mesh, rank).data)];
}

int largest_replica(const ProgramOptions& o) {
  const auto has = [&](int replica) {
    const auto r = static_cast<std::size_t>(replica);
    return std::pair(o.shares.empty() ? 0 : o.shares[r],
                     o.state_shares.empty() ? 0 : o.state_shares[r % o.state_shares.size()]);
  };
  int largest = 0;
  const int replicas = static_cast<int>(std::max(o.shares.size(), o.state_shares.size()));
  for (int replica = 1; replica < replicas; ++replica)
    if (has(replica) > has(largest)) largest = replica;
  return largest;
}

bool uneven_state(const ProgramOptions& o) {
  return std::adjacent_find(o.state_shares.begin(), o.state_shares.end(), std::not_equal_to<>()) !=
         o.state_shares.end();
}

ProgramOptions at_stage(ProgramOptions o, int stage) {
  o.rank = rank_at(o.mesh, {largest_replica(o), stage, 0});
  return o;
}

void set_shares(ProgramOptions& o, std::vector<std::int64_t> shares, std::int64_t micro_batches) {
  o.shares = std::move(shares);
  o.micro_batches = o.shares.empty() ? micro_batches : *std::max_element(o.shares.begin(), o.shares.end());
}

std::vector<ModelTensor> model_tensors(const ModelConfig& model) {
  std::vector<ModelTensor> tensors;
  const auto whole = whole_model(model);
  for (const Parameter& p : whole->graph.parameters) {
    for (const ParameterPart& part : p.parts) tensors.push_back({part.name, part.shape});
  }
  return tensors;
}

const Graph& Programs::graph(std::string_view name) const {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return *graphs[i];
  }
  fail(ErrorKind::Internal, "this run has no program '{}'", name);
}

bool Programs::has(std::string_view name) const { return std::find(names.begin(), names.end(), name) != names.end(); }

bool Programs::divides(std::string_view region) const {
  return zero >= (region == "parameters" ? 3 : region == "gradients" ? 2 : 1);
}

DType Programs::dtype_of(std::string_view region) const {
  const Graph& graph = *graphs.front();
  return graph[graph.find(region)].spec.dtype;
}

std::string_view Programs::weights() const {
  return graphs.front()->named.contains(kMasterWeights) ? kMasterWeights : "parameters";
}

std::vector<Program> Programs::list() const {
  std::vector<Program> all;
  for (std::size_t i = 0; i < names.size(); ++i)
    all.push_back({names[i], graphs[i].get(), names[i] == "train" ? schedule.get() : nullptr, stage});
  return all;
}

bool allows_row_splits(const ProgramOptions& o) {
  const bool whole = !o.fp8 && (o.mesh.tensor == 1 || o.tensor_chunks == 1);
  return whole && (o.mesh.pipeline == 1 || (o.schedule != ScheduleKind::ZbH1 && o.pipeline_chunks == 1));
}

std::optional<std::string> recompute_fault(const Graph& keeping, const ProgramOptions& o) {
  if (auto fault = keep_fault(keeping, o.recompute)) return fault;
  if (!has_row_splits(o.recompute)) return std::nullopt;
  if (!allows_row_splits(o))
    return "blocks of rows do not go with fp8, parallel.tensor_chunks, comm.pipeline_chunks or a zero-bubble schedule";
  return row_split_fault(keeping, o.recompute);
}

std::vector<int> program_cuts(const ProgramOptions& o) {
  if (o.mesh.pipeline == 1) return {};
  return pipeline_cuts(o.model, train_shape(o), pipeline_parallel(o), o.stage_layers);
}

std::vector<int> distinct_stages(const ProgramOptions& o) {
  const int stages = o.mesh.pipeline;
  std::vector<int> first = program_cuts(o);
  first.push_back(static_cast<int>(o.model.layers));
  std::vector<int> distinct;
  std::vector<std::vector<int>> seen;
  for (int stage = 0; stage < stages; ++stage) {
    std::vector<int> layers{stage == 0 || stage + 1 == stages ? stage : -1};
    for (int chunk = 0; stages > 1 && chunk < o.chunks; ++chunk) {
      const auto piece = static_cast<std::size_t>(piece_index(stages, stage, chunk));
      layers.push_back(first[piece + 1] - first[piece]);
      for (int layer = first[piece]; !o.recompute.empty() && layer < first[piece + 1]; ++layer) {
        const auto same =
            std::find(o.recompute.begin(), o.recompute.end(), o.recompute[static_cast<std::size_t>(layer)]);
        layers.push_back(static_cast<int>(same - o.recompute.begin()));
      }
    }
    if (std::find(seen.begin(), seen.end(), layers) != seen.end()) continue;
    distinct.push_back(stage);
    seen.push_back(std::move(layers));
  }
  return distinct;
}

DividedState divided_state(const ProgramOptions& o) {
  const DataParallel data = data_parallel(o);
  DividedState state;
  if (data.shards == 1) return state;
  Programs p;
  p.cuts = program_cuts(o);
  const FlatLayout layout = flat_layout(forward_graph(o, p, train_shape(o)), data.shards);
  const StateBytes each = state_bytes(o.dtype, o.optimizer);
  std::vector<std::int64_t> buffers;  // bytes per element
  if (o.train) buffers.assign(static_cast<std::size_t>(each.optimizer / each.gradient), each.gradient);
  if (o.train && data.zero >= 2) buffers.push_back(each.gradient);
  if (data.zero == 3) buffers.push_back(each.weight);
  state.bytes_per_element = std::accumulate(buffers.begin(), buffers.end(), std::int64_t{0});
  state.bytes = state.bytes_per_element * layout.elements;
  constexpr std::int64_t kLine = 64;  // of parameters
  state.unit = kLine / each.weight;
  state.uneven_bytes =
      std::ssize(layout.units) * state.unit * state.bytes_per_element + std::ssize(buffers) * kArenaAlignment;
  // In which a rank receives what it sums: a unit or, together, any bytes up to those of a bucket. One that has all of
  // it needs most beside one with an equal part where it is a little more than a piece.
  std::int64_t scratch = 0;
  const std::int64_t bucket =
      std::min(layout.elements * each.gradient, std::max(o.bucket_bytes.value_or(0), o.unit_bucket_bytes));
  for (const Unit& unit : layout.units) {
    const std::int64_t one = unit.elements * each.gradient, most = std::max(one, bucket);
    for (const std::int64_t bytes : {one, most, std::clamp(kPieceBytes + 1, one, most)}) {
      scratch = std::max(
          scratch, reduce_scratch_bytes(data.shards, bytes) - reduce_scratch_bytes(data.shards, bytes / data.shards));
    }
  }
  state.uneven_bytes += scratch;
  return state;
}

KeepingGraph keeping_graph(const ProgramOptions& o) {
  Programs p;
  add_schedule(o, p);
  Graph graph = differentiated_graph(o, p);
  return {std::move(graph), std::move(p.schedule), p.stage};
}

KeepingGraph rewritten_graph(const ProgramOptions& o) {
  KeepingGraph keeping = keeping_graph(o);
  rewrite_activations(keeping.graph, o);
  return keeping;
}

double micro_batch_seconds(const Graph& graph, const ProgramOptions& o) {
  const NodeTimes times = time_nodes(graph, *o.costs, [&](std::string_view axis) { return axis_stride(o.mesh, axis); });
  return times.forward_s + times.backward_s;
}

namespace {

// What the memory plan follows from, and the plan.
Programs planned_programs(const ProgramOptions& o, const Planning& planning) {
  Programs p;
  add_schedule(o, p);
  const auto add = [&](std::string name, Graph graph) {
    share_forward_memory(graph);
    classify_memory(graph);
    const auto bad = verify(graph);
    require(!bad.has_value(), ErrorKind::Internal, "program {}: {}", name, bad.value_or(""));
    p.names.push_back(std::move(name));
    p.graphs.push_back(std::make_unique<Graph>(std::move(graph)));
  };
  if (o.train) add("train", train_graph(o, p, planning));
  if (o.evaluate) add("evaluate", inference_graph(o, p, o.micro_batch, o.sequence, Head::Loss, 0));
  if (o.logits) add("logits", inference_graph(o, p, o.micro_batch, o.sequence, Head::Logits, 0));
  if (o.cache_positions > 0) {
    const std::int64_t chunk = std::min(kPrefillTokens, o.cache_positions);
    add("prefill", inference_graph(o, p, 1, chunk, Head::Hidden, o.cache_positions));
    add("decode", inference_graph(o, p, 1, 1, Head::Logits, o.cache_positions));
  }
  require(!p.graphs.empty(), ErrorKind::Internal, "a run needs at least one program");
  const DataParallel data = data_parallel(o);
  p.layout = flat_layout(*p.graphs.front(), data.shards, o.state_shares);
  p.shard_rank = data.shard_rank;
  p.zero = data.shards > 1 ? o.zero : 0;
  const int replica = coordinates(o.mesh, o.rank).data;
  p.owns_whole = replica == 0;
  p.owns_shards = replica < data.shards;
  p.plan = plan_memory(p.list(), o.threads, planning.enough_bytes);
  return p;
}

}  // namespace

Programs timed_programs(const ProgramOptions& o) {
  Programs p;
  add_schedule(o, p);
  p.names.emplace_back("train");
  p.graphs.push_back(std::make_unique<Graph>(train_graph(o, p, {})));
  return p;
}

MemoryPlan plan_of(const ProgramOptions& o, std::int64_t enough_bytes, const Graph* keeping) {
  return planned_programs(o, {false, enough_bytes, keeping}).plan;
}

Programs build_programs(const ProgramOptions& o) {
  Programs p = planned_programs(o, {});
  p.tensors = model_tensors(o.model);
  if (o.train) {
    p.train_flops_per_micro_batch = train_flops(o);
    p.rank_flops_per_micro_batch = count_flops(p.graph("train"), {Phase::Forward, Phase::InputGrad, Phase::WeightGrad});
    p.recompute_flops_per_micro_batch = recompute_flops(p.graph("train"));
  }
  return p;
}

std::int64_t least_arena_bytes(const Programs& programs, const ProgramOptions& options) {
  std::int64_t live = 0;
  const bool row_splits = allows_row_splits(options);
  for (const ProgramLayout& program : programs.plan.programs) {
    if (program.name != "train" && !row_splits) live = std::max(live, program.max_live_bytes);  // blocks are theirs too
  }
  if (options.train) {
    ProgramOptions kept = options;
    kept.recompute.clear();
    Programs p;
    add_schedule(kept, p);
    const Graph graph = train_graph(kept, p, {.timed = false});
    live = std::max(live, unavoidable_bytes({"train", &graph, p.schedule.get(), p.stage}, kept.threads, row_splits));
  }
  // The last buffer of a plan ends where its bytes end, the others at the alignment.
  return std::max(programs.plan.persistent_bytes, programs.plan.persistent_bytes + live - (kArenaAlignment - 1));
}

}  // namespace plimsoll
