#include "tests/support/equivalence.hpp"

#include <fmt/ranges.h>

#include <numeric>

#include "launch/allocation_counter.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll::test {

std::string name_of(const Layout& l) {
  return fmt::format("data{}_pipeline{}_tensor{}_zero{}_shards{}{}_{}{}{}{}{}{}{}", l.mesh.data, l.mesh.pipeline,
                     l.mesh.tensor, l.zero, l.mesh.shards, l.sequence ? "_sequence" : "", to_text(l.schedule), l.chunks,
                     l.stages.empty() ? "" : fmt::format("_cut{}", fmt::join(l.stages, "_")),
                     l.tensor_chunks > 1 ? fmt::format("_in{}", l.tensor_chunks) : "",
                     l.shares.empty() ? "" : fmt::format("_shares{}", fmt::join(l.shares, "_")),
                     l.hierarchical    ? "_hierarchical"
                     : l.prefetch != 1 ? fmt::format("_ahead{}", l.prefetch)
                                       : "",
                     (l.state_shares.empty() ? "" : fmt::format("_state{}", fmt::join(l.state_shares, "_"))) +
                         (l.gather_bytes > 0 ? fmt::format("_gather{}", l.gather_bytes) : "") +
                         (l.pipeline_chunks > 1 ? fmt::format("_parts{}", l.pipeline_chunks) : ""));
}

std::vector<Layout> every_schedule(Layout layout, std::int64_t layers) {
  std::vector<Layout> all;
  for (const ScheduleKind kind :
       {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::Interleaved}) {
    layout.schedule = kind;
    layout.chunks = kind == ScheduleKind::Interleaved ? 2 : 1;
    if (layout.chunks * layout.mesh.pipeline <= layers) all.push_back(layout);
  }
  return all;
}

std::string family_name(ModelFamily family) { return family == ModelFamily::Gpt2 ? "gpt2" : "llama"; }

ProgramOptions equivalence_options(ModelFamily family, DType dtype, std::int64_t micro_batch) {
  ProgramOptions o = tiny_options(family);
  o.dtype = dtype;
  o.micro_batch = micro_batch;
  o.evaluate = true;
  return o;
}

ProgramOptions four_layer_options(ModelFamily family) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = 4;
  o.micro_batch = 1;
  o.sequence = 32;
  o.evaluate = true;
  if (family == ModelFamily::Gpt2) o.model.dropout = 0.2;
  return o;
}

ProgramOptions uneven_options(ModelFamily family, DType dtype, std::int64_t layers) {
  ProgramOptions o = equivalence_options(family, dtype, 1);
  ModelConfig m = family_defaults(family);
  m.layers = layers;
  m.hidden = 24;
  m.heads = family == ModelFamily::Gpt2 ? 4 : 6;
  m.vocabulary = 509;
  m.positions = 80;
  if (family == ModelFamily::Llama) {
    m.kv_heads = 3;
    m.ffn = 48;
    m.tied = false;
  }
  o.model = resolve(m);
  return o;
}

namespace {

template <class T>
std::vector<std::vector<double>> whole_tensors(Engine& engine, std::string_view region) {
  std::vector<std::vector<double>> all;
  for (std::size_t t = 0; t < engine.programs().tensors.size(); ++t) {
    const std::int64_t n = engine.programs().tensors[t].shape.elements();
    std::vector<T> values(static_cast<std::size_t>(n));
    engine.gather(region, t, 0, n, values.data());
    all.emplace_back(values.begin(), values.end());
  }
  return all;
}

}  // namespace

RunResult train_rank(const Layout& layout, ProgramOptions o, int rank, const Groups& groups, std::int64_t rows,
                     std::int64_t steps, bool counts, bool poison, Backend* backend, Profile* profile) {
  o.mesh = layout.mesh;
  o.zero = layout.zero;
  o.sequence_parallel = layout.sequence;
  o.rank = rank;
  o.schedule = layout.schedule;
  o.chunks = layout.chunks;
  o.stage_layers = layout.stages;
  o.tensor_chunks = layout.tensor_chunks;
  o.hierarchical = layout.hierarchical;
  o.prefetch = layout.prefetch;
  o.state_shares = layout.state_shares;
  o.gather_bytes = layout.gather_bytes;
  o.pipeline_chunks = layout.pipeline_chunks;
  set_shares(o, layout.shares, rows / layout.mesh.data / o.micro_batch);
  EngineOptions options;
  options.poison = poison;
  options.backend = backend;
  options.profile = profile;
  options.overlap = layout.overlap;
  for (const auto& [axis, group] : groups) options.groups[axis] = &group;
  Engine engine(build_programs(o), options);
  engine.initialise(1);
  const auto tensors = [&] {
    const std::string_view weights = engine.programs().weights();
    return o.dtype == DType::f64 ? whole_tensors<double>(engine, weights) : whole_tensors<float>(engine, weights);
  };
  RunResult result;
  result.dtype = o.dtype;
  result.fp8 = o.fp8;
  for (const ModelTensor& t : engine.programs().tensors) result.names.push_back(t.name);
  result.initial = tensors();
  std::map<std::string, std::int64_t> before;
  for (const auto& [axis, group] : groups) before[axis] = group.bytes_sent();
  const int replica = coordinates(layout.mesh, rank).data;
  const std::int64_t share = micro_batches_of(o, rank) * o.micro_batch;
  const std::int64_t first =
      layout.shares.empty()
          ? replica * share
          : o.micro_batch * std::accumulate(o.shares.begin(), o.shares.begin() + replica, std::int64_t{0});
  for (std::int64_t step = 0; step < steps; ++step) {
    const StepResult s = tiny_step(engine, o, step, first, share, rows);
    result.losses.push_back(s.loss());
    result.norms.push_back(s.grad_norm);
    if (counts && step == 0) AllocationCounter::start();
  }
  if (counts) result.allocations = AllocationCounter::count();
  for (const auto& [axis, group] : groups) result.sent[axis] = group.bytes_sent() - before[axis];
  if (o.evaluate) {  // its memory is planned too
    const TinyBatch batch = tiny_batch(o, 99, replica * o.micro_batch, o.micro_batch);
    double sum = 0, count = 0;
    engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
  }
  result.final = tensors();  // all ranks together: no engine ends while another one waits for its messages
  result.planned = {engine.programs().plan.total_bytes};
  result.high_water = {engine.arena().high_water()};
  result.host_planned = {engine.programs().plan.host_bytes};
  result.host_high_water = {engine.host_arena() != nullptr ? engine.host_arena()->high_water() : 0};
  result.classes = {engine.programs().plan.class_bytes};
  result.seen_classes = {engine.seen_class_bytes()};
  return result;
}

RunResult train_on(const Layout& layout, const ProgramOptions& o, std::int64_t rows, std::int64_t steps, bool poison,
                   const std::function<Backend()>& backend) {
  std::vector<RunResult> all(static_cast<std::size_t>(layout.mesh.ranks()));
  std::vector<std::optional<Backend>> own(all.size());  // outlive the groups
  for (auto& b : own) {
    if (backend) b = backend();
  }
  const auto train = [&](int rank, const Groups& groups) {
    auto& mine = own[static_cast<std::size_t>(rank)];
    all[static_cast<std::size_t>(rank)] =
        train_rank(layout, o, rank, groups, rows, steps, rank == 0, poison, mine ? &*mine : nullptr);
    if (mine && mine->transports) mine->transports->close();
  };
  const auto over = [&](int rank, const std::string& axis, std::shared_ptr<Transport> below) {
    auto& mine = own[static_cast<std::size_t>(rank)];
    return mine && mine->transports ? mine->transports->over(axis, std::move(below), nullptr) : below;
  };
  on_mesh(layout.mesh, train, over);
  RunResult result = all.front();
  for (std::size_t r = 1; r < all.size(); ++r) {
    result.planned.push_back(all[r].planned.front());
    result.high_water.push_back(all[r].high_water.front());
    result.host_planned.push_back(all[r].host_planned.front());
    result.host_high_water.push_back(all[r].host_high_water.front());
    result.classes.push_back(all[r].classes.front());
    result.seen_classes.push_back(all[r].seen_classes.front());
  }
  return result;
}

double relative_norm(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / std::max(size, 1e-30));
}

namespace {

void expect_same_tensors(const RunResult& run, const RunResult& one) {
  for (std::size_t t = 0; t < one.final.size(); ++t) {
    const bool attention_bias = one.names[t].find("attn") != std::string::npos && one.names[t].ends_with("bias");
    EXPECT_LE(relative_norm(run.final[t], one.final[t]), attention_bias ? 5e-3 : 1e-4) << one.names[t];
  }
}

std::vector<double> joined(const std::vector<std::vector<double>>& tensors) {
  std::vector<double> all;
  for (const auto& tensor : tensors) all.insert(all.end(), tensor.begin(), tensor.end());
  return all;
}

}  // namespace

void expect_same_training(const RunResult& run, const RunResult& one) {
  // Half precision rounds partial sums of ranks where one rank has the whole.
  const bool half = wide_dtype(one.dtype) != one.dtype;
  const double tolerance = one.dtype == DType::f64 ? 1e-10 : half ? 5e-4 : 1e-5;
  // In half precision they also flip roundings to fp8, which are far larger.
  const double norms = half ? (one.fp8 ? 3e-2 : 5e-3) : 1e3 * tolerance;
  EXPECT_EQ(run.initial, one.initial);  // bitwise
  ASSERT_EQ(run.losses.size(), one.losses.size());
  for (std::size_t i = 0; i < run.losses.size(); ++i) {
    EXPECT_NEAR(run.losses[i], one.losses[i], tolerance * one.losses[i]) << "step " << i;
    EXPECT_NEAR(run.norms[i], one.norms[i], norms * one.norms[i]) << "step " << i;
  }
  ASSERT_EQ(run.final.size(), one.final.size());
  // Adam makes steps of the rounding noise of small gradients: a bias that started at 0 is little else after a few.
  if (half)
    EXPECT_LE(relative_norm(joined(run.final), joined(one.final)), 1e-2);
  else
    expect_same_tensors(run, one);
  EXPECT_EQ(run.high_water, run.planned);
  EXPECT_EQ(run.seen_classes, run.classes);
  EXPECT_EQ(run.host_high_water, run.host_planned);
  EXPECT_EQ(run.allocations, 0);
}

void expect_same_bits(const RunResult& run, const RunResult& other) {
  EXPECT_EQ(run.losses, other.losses);
  EXPECT_EQ(run.norms, other.norms);
  EXPECT_EQ(run.final, other.final);
}

}  // namespace plimsoll::test
