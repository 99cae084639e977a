#include "launch/nearest_changes.hpp"

#include <algorithm>

#include "parallel/overlap.hpp"
#include "parallel/pipeline.hpp"
#include "parallel/tensor.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

struct Change {
  std::string what;
  ProgramOptions options;
};

std::string arrow(std::string_view key, std::int64_t from, std::int64_t to) {
  return fmt::format("{} {} -> {}", key, from, to);
}

void add_smaller_batches(const ProgramOptions& o, std::vector<Change>& changes) {
  const auto add = [&](std::int64_t rows) {
    Change& c = changes.emplace_back(arrow("train.micro_batch", o.micro_batch, rows), o);
    c.options.micro_batches = o.micro_batches * o.micro_batch / rows;
    for (std::int64_t& share : c.options.shares) share = share * o.micro_batch / rows;
    c.options.micro_batch = rows;
  };
  std::int64_t rows = o.micro_batch - 1;  // the next that divides what this one divides
  while (rows > 0 && o.micro_batch % rows != 0) --rows;
  if (rows > 0) add(rows);
  if (rows > 1) add(1);
  if (o.sequence < 2) return;
  Change& c = changes.emplace_back(arrow("data.sequence", o.sequence, o.sequence / 2), o);
  c.options.sequence = o.sequence / 2;
}

void add_recomputation(const ProgramOptions& o, std::vector<Change>& changes) {
  for (const RecomputeMode mode : {RecomputeMode::Selective, RecomputeMode::Full, RecomputeMode::Offload}) {
    const std::vector<LayerRecompute> layers(static_cast<std::size_t>(o.model.layers), {mode, {}});
    if (!o.train || o.recompute == layers) continue;
    changes.emplace_back(fmt::format("memory.recompute -> {}", to_text(mode)), o).options.recompute = layers;
  }
}

// What ZeRO divides further: over the replicas that are there, or over twice as many.
void add_replicas(const ProgramOptions& o, std::vector<Change>& changes) {
  const int most_zero = o.shares.empty() ? 3 : 1;
  const auto add = [&](int replicas, int zero) {
    const std::string ranks =
        replicas > o.mesh.data ? fmt::format(", on {} ranks", o.mesh.ranks() * replicas / o.mesh.data) : "";
    std::string what = replicas > o.mesh.data ? arrow("parallel.data", o.mesh.data, replicas) : "";
    if (zero != o.zero) what += (what.empty() ? "" : ", ") + arrow("parallel.zero", o.zero, zero);
    Change& c = changes.emplace_back(what + ranks, o);
    c.options.mesh.data = c.options.mesh.shards = replicas;
    if (replicas != o.mesh.shards) c.options.state_shares.clear();
    c.options.zero = zero;
    c.options.micro_batches = o.micro_batches * o.mesh.data / replicas;
  };
  for (int zero = o.zero + 1; o.mesh.data > 1 && zero <= most_zero; ++zero) add(o.mesh.data, zero);
  if (o.micro_batches % 2 != 0) return;  // the batch does not divide over twice the replicas
  if (!o.shares.empty()) return;         // they are of these replicas
  for (int zero = std::max(1, o.zero); zero <= most_zero; ++zero) add(2 * o.mesh.data, zero);
}

void add_ranks(const ProgramOptions& o, std::vector<Change>& changes) {
  const Mesh& mesh = o.mesh;
  const TensorParallel twice{2 * mesh.tensor, 0, o.sequence_parallel};
  Change& split = changes.emplace_back(
      fmt::format("{}, on {} ranks", arrow("parallel.tensor", mesh.tensor, twice.ranks), 2 * mesh.ranks()), o);
  split.options.mesh.tensor = twice.ranks;
  split.options.mesh.kv_copies = twice.kv_copies(o.model);
  const int stages = 2 * mesh.pipeline;
  if (!o.train || stages * o.chunks > o.model.layers) return;
  Change& c = changes.emplace_back(
      fmt::format("{}, on {} ranks", arrow("parallel.pipeline", mesh.pipeline, stages), 2 * mesh.ranks()), o);
  c.options.mesh.pipeline = stages;
  c.options.stage_layers.clear();
}

// The first layer of a stage makes other values than one inside of it, so names do not carry over to other cuts.
void forget_names_of_other_cuts(const std::vector<int>& cuts, ProgramOptions& o) {
  if (o.recompute.empty() || program_cuts(o) == cuts) return;
  for (LayerRecompute& layer : o.recompute) {
    if (layer.mode == RecomputeMode::Auto) layer = {RecomputeMode::Full, {}};
  }
}

// On the rank that needs most, or, where ranks have other parts of the state, in this replica; nullopt: some rank would
// offload more than it may.
std::optional<std::int64_t> arena_bytes(const ProgramOptions& o, int replica) {
  std::int64_t most = 0;
  for (const int stage : distinct_stages(o)) {
    ProgramOptions at = at_stage(o, stage);
    if (uneven_state(o)) at.rank = rank_at(o.mesh, {replica, stage, 0});
    const MemoryPlan plan = plan_of(at);
    if (plan.host_bytes > o.host.bytes) return std::nullopt;
    most = std::max(most, plan.total_bytes);
  }
  return most;
}

bool allowed(const ProgramOptions& o) {
  const auto fills = [&](std::int64_t micro_batches) { return micro_batches % o.mesh.pipeline == 0; };
  const bool interleaved = o.train && o.mesh.pipeline > 1 && o.schedule == ScheduleKind::Interleaved;
  if (interleaved && !(fills(o.micro_batches) && std::all_of(o.shares.begin(), o.shares.end(), fills))) return false;
  if (pipeline_chunks_fault(o.model, o.mesh.tensor, o.micro_batch * o.sequence, o.pipeline_chunks)) return false;
  if (o.mesh.tensor == 1) return true;
  return !tensor_parallel_fault(o.model, o.sequence, {o.mesh.tensor, 0, o.sequence_parallel}) &&
         !tensor_chunks_fault(o.micro_batch, o.sequence, o.sequence_parallel, o.tensor_chunks);
}

}  // namespace

std::string nearest_changes(const ProgramOptions& o, std::int64_t budget_bytes, std::int64_t outside_bytes) {
  if (o.cache_positions > 0) return "";
  std::vector<Change> changes;
  add_smaller_batches(o, changes);
  add_recomputation(o, changes);
  add_replicas(o, changes);
  add_ranks(o, changes);
  if (o.train && o.optimizer.name == OptimizerName::AdamW)
    changes.emplace_back("optimizer.name adamw -> sgd", o).options.optimizer.name = OptimizerName::Sgd;
  std::vector<std::pair<std::int64_t, const Change*>> needs;
  const std::vector<int> cuts = program_cuts(o);
  for (Change& c : changes) {
    if (!allowed(c.options)) continue;
    forget_names_of_other_cuts(cuts, c.options);
    fit_row_splits(c.options);
    if (const auto bytes = arena_bytes(c.options, coordinates(o.mesh, o.rank).data))
      needs.emplace_back(*bytes + outside_bytes, &c);
  }
  std::stable_sort(needs.begin(), needs.end(), [budget_bytes](const auto& a, const auto& b) {
    const bool fits = a.first <= budget_bytes;
    if (fits != (b.first <= budget_bytes)) return fits;
    return fits ? a.first > b.first : a.first < b.first;
  });
  std::string text;
  for (const auto& [bytes, change] : needs)
    text += fmt::format("\n  {}: {} ({})", change->what, format_bytes(bytes),
                        bytes <= budget_bytes ? "fits" : "does not fit");
  return text;
}

}  // namespace plimsoll
