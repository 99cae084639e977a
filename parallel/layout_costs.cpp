// What a layout takes: the estimate of layout.hpp.

#include <algorithm>
#include <numeric>
#include <utility>

#include "optim/update.hpp"
#include "parallel/layout_memory.hpp"
#include "runtime/plan/simulate.hpp"
#include "runtime/plan/stages.hpp"

namespace plimsoll {
namespace {

// Messages that follow each other on one stream, each ready at a time: when the last is done.
struct Queue {
  double free_s = 0;
  void send(double ready_s, double takes_s) { free_s = std::max(free_s, ready_s) + takes_s; }
};

// Messages as they usually are, or as if their sizes cost nothing: nobody knows sizes that leave less exposed.
enum class Sizes : std::uint8_t { Usual, Ideal };

struct StageTimes {
  std::vector<ChunkCost> chunks;  // of a micro-batch
  double exposed_s = 0;           // of a micro-batch
  double tail_s = 0;              // after the last backward, until the gradients are summed
  double update_s = 0, gather_s = 0;
  double forward_s() const { return chunks.front().forward_s; }
  double all_s() const {
    double sum = 0;
    for (const ChunkCost& c : chunks) sum += c.forward_s + c.input_grad_s + c.weight_grad_s;
    return sum;
  }
};

}  // namespace

struct LayoutCosts::Impl {
  LayoutProblem problem;
  LayoutMachine machine;
  PieceProfiles pieces;
  std::map<std::tuple<int, bool, int>, std::vector<std::int64_t>> cuts;

  Impl(LayoutProblem p, LayoutMachine m)
      : problem(std::move(p)), machine(std::move(m)), pieces(problem, *machine.costs) {}

  const CostModel& costs() const { return *machine.costs; }

  double reduce_s(const Layout& l, std::int64_t elements) const;
  double gather_s(const Layout& l, std::int64_t elements) const;
  // Do the links decide about sizes, and does that change anything?
  bool sized(const Layout& l) const;
  StageTimes stage(const Layout& l, int stage, Sizes sizes);
  void add_reductions(const Layout& l, const PieceProfile& p, std::int64_t layers, Sizes sizes, StageTimes& t) const;
  void add_sharded_steps(const Layout& l, const PieceProfile& p, std::int64_t layers, Sizes sizes, ChunkCost& c,
                         StageTimes& t) const;
  void add_update(const Layout& l, const std::vector<PieceProfile>& profiles, StageTimes& t) const;
  LayoutEstimate play(const Layout& l, const std::vector<StageTimes>& stages);
};

// The sum of the replicas' gradients of a unit.
double LayoutCosts::Impl::reduce_s(const Layout& l, std::int64_t elements) const {
  const std::int64_t bytes = elements * state_bytes(problem.dtype, problem.optimizer).gradient;
  if (l.zero == 0) return costs().collective_seconds(CollectiveKind::AllReduce, bytes, l.mesh.data, l.mesh.tensor);
  const int replicas = l.mesh.data / l.mesh.shards;
  return costs().collective_seconds(CollectiveKind::ReduceScatter, bytes, l.mesh.shards, l.mesh.tensor) +
         costs().collective_seconds(CollectiveKind::AllReduce, bytes / l.mesh.shards, replicas,
                                    l.mesh.tensor * l.mesh.shards);
}

double LayoutCosts::Impl::gather_s(const Layout& l, std::int64_t elements) const {
  const std::int64_t bytes = elements * state_bytes(problem.dtype, problem.optimizer).weight;
  return costs().collective_seconds(CollectiveKind::AllGather, bytes, l.mesh.shards, l.mesh.tensor);
}

// ZeRO 0 and 1: units are summed in the last micro-batch as its backward finishes them, from the last layer on, in
// buckets of whole units.
void LayoutCosts::Impl::add_reductions(const Layout& l, const PieceProfile& p, std::int64_t layers, Sizes sizes,
                                       StageTimes& t) const {
  const ChunkCost& last = t.chunks.front();
  const double backward = last.input_grad_s + last.weight_grad_s;
  const double each = backward / static_cast<double>(layers);
  std::vector<std::pair<double, std::int64_t>> units;  // ready, elements
  if (p.head_elements > 0) units.emplace_back(0.0, p.head_elements);
  for (std::int64_t i = 1; i <= layers; ++i)
    units.emplace_back(each * static_cast<double>(i), p.layer_elements / layers);
  if (p.embedding_elements > 0) units.emplace_back(backward, p.embedding_elements);
  const std::int64_t gradient = state_bytes(problem.dtype, problem.optimizer).gradient;
  const std::int64_t most_bytes = l.zero > 0 ? problem.unit_bucket_bytes : problem.bucket_bytes;
  Queue queue;
  std::int64_t bucket = 0;
  double ready = 0;
  for (const auto& [when, elements] : units) {
    const bool full = bucket > 0 && (bucket + elements) * gradient > most_bytes;
    if (full) queue.send(ready, reduce_s(l, bucket));
    if (full) bucket = 0;
    bucket += elements;
    ready = when;
  }
  queue.send(ready, reduce_s(l, bucket));
  t.tail_s = std::max(0.0, queue.free_s - backward);
  if (sizes == Sizes::Usual || !problem.sized_buckets) return;
  // The last message goes behind backward, and all of them take no less than one with all their bytes.
  t.tail_s = std::min(t.tail_s, std::max(reduce_s(l, 0), reduce_s(l, p.elements()) - backward));
}

// ZeRO 2 and 3 communicate in every micro-batch, each unit of a piece beside the work on the one before.
void LayoutCosts::Impl::add_sharded_steps(const Layout& l, const PieceProfile& p, std::int64_t count, Sizes sizes,
                                          ChunkCost& c, StageTimes& t) const {
  const auto layers = static_cast<double>(count);
  const std::int64_t unit = p.layer_elements / count;
  const auto gather_of = [&](std::int64_t elements) { return l.zero == 3 && elements > 0 ? gather_s(l, elements) : 0; };
  const auto reduce_of = [&](std::int64_t elements) { return elements > 0 ? reduce_s(l, elements) : 0; };
  const double gather = gather_of(unit), gather_embedding = gather_of(p.embedding_elements);
  const double gather_head = gather_of(p.head_elements);
  const double forward = c.forward_s / layers, backward = (c.input_grad_s + c.weight_grad_s) / layers;
  double made_forward =
      gather_embedding + gather + (layers - 1) * std::max(forward, gather) + std::max(forward, gather_head);
  // Layers that are summed as one have a share of what that takes.
  const std::int64_t bytes = unit * state_bytes(problem.dtype, problem.optimizer).gradient;
  const std::int64_t together =
      std::clamp<std::int64_t>(problem.unit_bucket_bytes / std::max<std::int64_t>(1, bytes), 1, count);
  const double reduce = reduce_of(unit * together) / static_cast<double>(together);
  const double reduce_embedding = reduce_of(p.embedding_elements), reduce_head = reduce_of(p.head_elements);
  double made_backward = gather_head + gather + std::max(backward, reduce_head) +
                         (layers - 1) * std::max(backward, reduce + gather) + reduce + reduce_embedding;
  const bool sized_gathers = l.zero == 3 && problem.sized_gathers;
  if (sizes == Sizes::Ideal && (sized_gathers || problem.sized_buckets)) {
    // The first unit is gathered before, the last sum comes after; everything is gathered, and summed, at once at best.
    const double all = l.zero == 3 ? gather_s(l, p.elements()) : 0;
    const double first = gather_embedding > 0 ? gather_embedding : gather;
    if (sized_gathers) made_forward = std::min(made_forward, std::max(first + c.forward_s, all));
    const double sums =
        problem.sized_buckets ? reduce_s(l, p.elements()) : layers * reduce + reduce_embedding + reduce_head;
    const double least = problem.sized_buckets ? reduce_s(l, 0) : reduce_embedding > 0 ? reduce_embedding : reduce;
    const double last = (gather_head > 0 ? gather_head : gather) + c.input_grad_s + c.weight_grad_s + least;
    made_backward = std::min(made_backward, std::max(last, all + sums));
  }
  t.exposed_s += made_forward + made_backward - c.forward_s - c.input_grad_s - c.weight_grad_s;
  c.forward_s = made_forward;
  c.input_grad_s = made_backward - c.weight_grad_s;
}

void LayoutCosts::Impl::add_update(const Layout& l, const std::vector<PieceProfile>& profiles, StageTimes& t) const {
  const StateBytes state = state_bytes(problem.dtype, problem.optimizer);
  const int shards = l.zero > 0 ? l.mesh.shards : 1;
  std::int64_t elements = 0;
  for (const PieceProfile& p : profiles) elements += p.elements();
  // Gradients are read for the norm and for the update; state is read and written, and so are the weights, but where
  // there are master weights they are only written.
  const std::int64_t weight = (state.weight < state.gradient ? 1 : 2) * state.weight;
  t.update_s = costs().memory_seconds(elements / shards * (2 * (state.gradient + state.optimizer) + weight));
  if (l.zero != 1 && l.zero != 2) return;
  Queue queue;
  double done = 0;
  for (const PieceProfile& p : profiles) {
    done += t.update_s * static_cast<double>(p.elements()) / static_cast<double>(elements);
    queue.send(done, gather_s(l, p.elements()));
  }
  t.gather_s = std::max(0.0, queue.free_s - t.update_s);
}

bool LayoutCosts::Impl::sized(const Layout& l) const {
  if (problem.sized_chunks && l.mesh.tensor > 1) return true;
  return l.mesh.data > 1 && (problem.sized_buckets || (problem.sized_gathers && l.zero == 3));
}

StageTimes LayoutCosts::Impl::stage(const Layout& l, int stage, Sizes sizes) {
  StageTimes t;
  std::vector<PieceProfile> profiles;
  for (int chunk = 0; chunk < l.chunks; ++chunk) {
    PieceProfile& p = profiles.emplace_back(pieces.of(l, stage, chunk));
    if (sizes == Sizes::Ideal && problem.sized_chunks) {
      p.times.forward_s -= std::exchange(p.times.exposed_forward_s, 0);
      p.times.backward_s -= std::exchange(p.times.exposed_backward_s, 0);
    }
    const double weight = std::min(p.times.weight_grad_s, p.times.backward_s);
    t.chunks.push_back({p.times.forward_s, p.times.backward_s - weight, weight});
    t.exposed_s += p.times.exposed_forward_s + p.times.exposed_backward_s;
    if (l.mesh.data > 1 && l.zero >= 2)
      add_sharded_steps(l, p, pieces.layers(l, stage, chunk), sizes, t.chunks.back(), t);
  }
  if (l.mesh.data > 1 && l.zero < 2) add_reductions(l, profiles.front(), pieces.layers(l, stage, 0), sizes, t);
  add_update(l, profiles, t);
  return t;
}

// The pipeline on a clock, then what follows the last backward of each stage.
LayoutEstimate LayoutCosts::Impl::play(const Layout& l, const std::vector<StageTimes>& stages) {
  LayoutEstimate e;
  const auto count = static_cast<double>(l.micro_batches);
  std::size_t slowest = 0;
  for (std::size_t s = 1; s < stages.size(); ++s) {
    if (stages[s].all_s() > stages[slowest].all_s()) slowest = s;
  }
  double compute = count * stages[slowest].all_s();
  std::vector<double> slack(stages.size(), 0);
  if (l.mesh.pipeline > 1) {
    const Schedule& played = pieces.schedule(l);
    PipelineCosts costs;
    const int stride = l.mesh.tensor * l.mesh.data;
    const LinkDescription& link = link_of(machine.cluster, l.mesh.pipeline, stride);
    const std::int64_t message_bytes = l.micro_batch * problem.sequence * problem.model.hidden *
                                       dtype_bytes(problem.dtype) / (l.sequence_parallel ? l.mesh.tensor : 1);
    const auto message = static_cast<double>(message_bytes);
    for (const StageTimes& t : stages) {
      costs.chunks.push_back(t.chunks);
      costs.links.push_back({link.latency_s, link.bytes_per_s, message});
    }
    const Timeline timeline = simulate(played, costs);
    compute = timeline.step_s + (count - played.micro_batches) * stages[slowest].all_s();
    double busy = 0;
    for (std::size_t s = 0; s < stages.size(); ++s) {
      slack[s] = timeline.step_s - timeline.stages[s].back().end_s;
      busy += count * stages[s].all_s();
    }
    e.bubble = 1 - busy / (compute * static_cast<double>(stages.size()));
    e.idle_s = e.bubble * compute;
  }
  double tail = 0;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    tail = std::max(tail, stages[s].tail_s - slack[s]);
    e.update_s = std::max(e.update_s, stages[s].update_s);
    e.exposed_s = std::max(e.exposed_s, stages[s].gather_s);
  }
  e.step_s = compute + tail + e.update_s + e.exposed_s;
  e.exposed_s += tail + count * stages[slowest].exposed_s;
  return e;
}

namespace {

void add_seconds(LayoutEstimate& e, double seconds) {
  const double before = e.step_s;
  e.step_s += seconds;
  e.mfu *= before / e.step_s;
}

}  // namespace

void LayoutEstimate::set_recompute(double seconds) {
  add_seconds(*this, seconds - recompute_s);
  recompute_s = seconds;
}

void LayoutEstimate::set_sizes(double seconds) {
  seconds = std::min(seconds, hideable_s);
  add_seconds(*this, sizes_s - seconds);
  sizes_s = seconds;
}

LayoutCosts::LayoutCosts(LayoutProblem problem, LayoutMachine machine)
    : impl_(std::make_unique<Impl>(std::move(problem), std::move(machine))) {}
LayoutCosts::~LayoutCosts() = default;
const LayoutProblem& LayoutCosts::problem() const { return impl_->problem; }

std::optional<std::string> LayoutCosts::fp8_fault(const Layout& l) {
  return impl_->problem.fp8 && impl_->problem.fp8_multiples ? impl_->pieces.fp8_fault(l) : std::nullopt;
}

void LayoutCosts::cut_stages(Layout& l) {
  l.stage_layers.clear();
  if (l.mesh.pipeline == 1) return;
  const int count = l.mesh.pipeline * l.chunks;
  const std::tuple key{l.mesh.tensor, l.sequence_parallel, count};
  auto found = impl_->cuts.find(key);
  if (found == impl_->cuts.end()) {
    // With one sequence: the shares of the layers hardly depend on how many there are.
    PieceKind kind = piece_kind(l, false, false);
    kind.micro_batch = 1;
    const auto seconds = [&](bool embedding, bool head, std::int64_t layers) {
      kind.embedding = embedding;
      kind.head = head;
      const NodeTimes t = impl_->pieces.of(kind, layers).times;
      return t.forward_s + t.backward_s;
    };
    const double one = seconds(false, false, 1), layer = seconds(false, false, 2) - one;
    const std::vector<double> layers(static_cast<std::size_t>(problem().model.layers), std::max(0.0, layer));
    const std::vector<int> first = cut_layers(layers, std::max(0.0, seconds(true, false, 1) - one),
                                              std::max(0.0, seconds(false, true, 1) - one), count);
    std::vector<std::int64_t> sizes;
    for (std::size_t i = 0; i < first.size(); ++i)
      sizes.push_back((i + 1 < first.size() ? first[i + 1] : problem().model.layers) - first[i]);
    found = impl_->cuts.emplace(key, std::move(sizes)).first;
  }
  l.stage_layers = found->second;
}

std::int64_t LayoutCosts::memory_bound_bytes(const Layout& l) {
  std::int64_t most = 0;
  for (int s = 0; s < l.mesh.pipeline; ++s) most = std::max(most, bound_stage_bytes(impl_->pieces, l, s).bytes());
  return most;
}

double LayoutCosts::time_bound_s(const Layout& l) {
  // A stage cannot begin before the first micro-batch came through those before it, works without a pause at best, and
  // the last gradient goes back through them, beside which a stage may still have weight gradients to make.
  double before = 0, most = 0, update = 0, gather = 0;
  for (int s = 0; s < l.mesh.pipeline; ++s) {
    const StageTimes t = impl_->stage(l, s, Sizes::Ideal);
    const double first_tail = s == 0 ? t.tail_s : 0;
    most = std::max(most, before + static_cast<double>(l.micro_batches) * t.all_s() + first_tail);
    before += t.forward_s() + (l.schedule == ScheduleKind::ZbH1 ? 0 : t.chunks.front().input_grad_s);
    update = std::max(update, t.update_s);
    gather = std::max(gather, t.gather_s);
  }
  return most + update + gather;
}

LayoutEstimate LayoutCosts::estimate(const Layout& l) {
  const auto play = [&](Sizes sizes) {
    std::vector<StageTimes> stages;
    for (int s = 0; s < l.mesh.pipeline; ++s) stages.push_back(impl_->stage(l, s, sizes));
    return impl_->play(l, stages);
  };
  LayoutEstimate e = play(Sizes::Usual);
  if (impl_->sized(l)) e.hideable_s = std::max(0.0, e.step_s - play(Sizes::Ideal).step_s);
  e.memory_bound_bytes = memory_bound_bytes(l);
  const double peak = impl_->machine.cluster.device.peak.of(problem().dtype);
  const double flops = impl_->pieces.model_flops_per_sequence() * static_cast<double>(problem().global_batch);
  if (peak > 0) e.mfu = flops / e.step_s / peak / static_cast<double>(l.mesh.ranks());
  add_recompute_bound(impl_->pieces, l, e);
  return e;
}

}  // namespace plimsoll
