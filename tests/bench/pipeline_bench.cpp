// Steps of a two-stage pipeline beside what the simulator says of them, one JSON line for each schedule.
//   mpirun -n 2 --bind-to core pipeline_bench [--layers N] [--hidden N] [--micro-batches N] [--steps N] [--rounds N]
// The schedules take turns, a step each, for `rounds` rounds of `steps` steps. Every step is compared with what the
// simulator says for the mean times that its own actions took, by kind, chunk and stage, and for the time of a message;
// the update, in which nothing is simulated, is added as it was measured. Medians over the steps are printed.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "launch/bootstrap.hpp"
#include "launch/engine.hpp"
#include "launch/failure.hpp"
#include "launch/groups.hpp"
#include "launch/process.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/plan/simulate.hpp"

namespace plimsoll {
namespace {

struct Sizes {
  std::int64_t layers = 8, hidden = 384, heads = 6, vocabulary = 4096, sequence = 256;
  std::int64_t micro_batches = 8, steps = 6, rounds = 3;
};

double mean(const std::vector<double>& all) {
  double sum = 0;
  for (const double x : all) sum += x;
  return all.empty() ? 0 : sum / static_cast<double>(all.size());
}

double median(std::vector<double> all) {
  if (all.empty()) return 0;
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end());
  return *middle;
}

// What one rank measured, in seconds. It travels as bytes.
struct Measured {
  static constexpr std::size_t kCollectives = 8;
  std::array<std::array<double, 4>, 2> action{};  // [chunk][kind]
  double update = 0;                              // kernels of the update
  std::array<double, kCollectives> collective{};  // in their order, each with the wait for the others
};

ProgramOptions options_of(const Sizes& sizes, const MpiSession& mpi, ScheduleKind schedule) {
  ProgramOptions o;
  o.model = family_defaults(ModelFamily::Gpt2);
  o.model.layers = sizes.layers;
  o.model.hidden = sizes.hidden;
  o.model.heads = sizes.heads;
  o.model.vocabulary = sizes.vocabulary;
  o.model.positions = sizes.sequence;
  o.model = resolve(o.model);
  o.sequence = sizes.sequence;
  o.train = true;
  o.mesh.pipeline = mpi.size();
  o.rank = mpi.rank();
  o.schedule = schedule;
  o.chunks = schedule == ScheduleKind::Interleaved ? 2 : 1;
  o.micro_batches = sizes.micro_batches;
  return o;
}

// One schedule: an engine with a profile, and the times of its steps.
class Pipeline {
 public:
  Pipeline(const Sizes& sizes, const MpiSession& mpi, ScheduleKind schedule)
      : options_(options_of(sizes, mpi, schedule)), profile_(std::make_unique<Profile>(std::size_t{1} << 20)) {
    EngineOptions engine;
    engine.profile = profile_.get();
    groups_ = make_groups(options_.mesh, mpi.rank(), [&](const std::string& axis, const std::vector<int>& ranks) {
      return mpi.group(axis, ranks);
    });
    for (const auto& [axis, group] : groups_) engine.groups[axis] = &group;
    engine_ = std::make_unique<Engine>(build_programs(options_), engine);
    engine_->initialise(1);
    const RandomStream random(1, "pipeline_bench");
    tokens_.resize(static_cast<std::size_t>(sizes.sequence));
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      tokens_[i] = static_cast<std::int32_t>(random.uniform(i) * static_cast<double>(sizes.vocabulary));
  }

  // `warm_up`: it leaves no trace.
  void step(const Group& control, bool warm_up) {
    const auto next = [&](std::int64_t) { return MicroBatch{tokens_, tokens_, 0}; };
    const double targets = static_cast<double>(options_.micro_batches * options_.sequence);
    control.barrier();
    const std::int64_t begin = Profile::now_ns();
    engine_->train_micro_batches(options_.micro_batches, next, 1 / targets);
    engine_->update(1e-4, static_cast<std::uint64_t>(steps_), steps_);
    const double seconds = control.max(static_cast<double>(Profile::now_ns() - begin) * 1e-9);
    ++steps_;
    if (warm_up) ends_.clear();
    ends_.push_back(profile_->spans().size());
    if (!warm_up) measured_s_.push_back(seconds);
  }

  // Of measured step `step`.
  Measured measured(std::size_t step) const {
    std::map<std::string, std::vector<double>> by_kind;  // chunk and kind
    std::map<int, std::vector<double>> update, collective;
    const std::vector<Profile::Span> spans = profile_->spans();
    for (std::size_t i = ends_[step]; i < ends_[step + 1]; ++i) {
      const Profile::Span& s = spans[i];
      const ProfileRow& row = profile_->row(s.row);
      const double seconds = static_cast<double>(s.end_ns - s.begin_ns) * 1e-9;
      if (row.track == "schedule") by_kind[row.op + row.label.substr(row.label.rfind(' '))].push_back(seconds);
      if (row.track == "compute" && row.phase == phase_name(Phase::Update)) update[s.row].push_back(seconds);
      if (row.track == "communication") collective[s.row].push_back(seconds);
    }
    Measured m;
    for (std::size_t chunk = 0; chunk < m.action.size(); ++chunk) {
      for (std::size_t kind = 0; kind < m.action[chunk].size(); ++kind)
        m.action[chunk][kind] = median(by_kind[fmt::format("{} {}", to_text(static_cast<ActionKind>(kind)), chunk)]);
    }
    for (const auto& [row, all] : update) m.update += mean(all);
    std::size_t n = 0;
    require(collective.size() <= m.collective.size(), ErrorKind::Internal, "{} collectives", collective.size());
    for (const auto& [row, all] : collective) m.collective[n++] = mean(all);
    return m;
  }

  // Seconds of a message from stage to stage: half of there and back, nothing else going on.
  double message_s() const {
    const auto found = groups_.find("pipeline");
    const Group& group = found->second;
    std::vector<float> values(static_cast<std::size_t>(options_.sequence * options_.model.hidden));
    const View view{values.data(), {{static_cast<std::int64_t>(values.size())}, DType::f32}};
    std::vector<double> all;
    for (int i = 0; i < 20; ++i) {
      const std::int64_t begin = Profile::now_ns();
      if (group.rank() == 0) group.send(view, 1);
      group.receive(view, 1 - group.rank());
      if (group.rank() == 1) group.send(view, 0);
      all.push_back(static_cast<double>(Profile::now_ns() - begin) * 0.5e-9);
    }
    return median(all);
  }

  const ProgramOptions& options() const { return options_; }
  const Schedule& schedule() const { return *engine_->programs().schedule; }
  const std::vector<double>& measured_s() const { return measured_s_; }  // by step

 private:
  ProgramOptions options_;
  std::unique_ptr<Profile> profile_;
  Groups groups_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::int32_t> tokens_;
  std::vector<double> measured_s_;
  std::int64_t steps_ = 0;
  std::vector<std::size_t> ends_;  // spans after the warm-up, and after each measured step
};

// Backward is one action or two; the simulator takes its sum.
ChunkCost cost_of(const std::array<double, 4>& action) {
  const auto of = [&](ActionKind kind) { return action[static_cast<std::size_t>(kind)]; };
  return {of(ActionKind::Forward), of(ActionKind::Backward) + of(ActionKind::InputGrad), of(ActionKind::WeightGrad)};
}

struct Prediction {
  double step_s = 0, update_s = 0, collectives_s = 0, bubble = 0;
  double total() const { return step_s + update_s + collectives_s; }
};

// Of a step in which the ranks measured this.
Prediction predict(const Schedule& schedule, const std::vector<Measured>& all, double message_s) {
  Prediction p;
  PipelineCosts costs;
  for (const Measured& m : all) {
    costs.chunks.emplace_back();
    for (int chunk = 0; chunk < schedule.chunks; ++chunk)
      costs.chunks.back().push_back(cost_of(m.action[static_cast<std::size_t>(chunk)]));
    p.update_s = std::max(p.update_s, m.update);
  }
  costs.links.assign(all.size(), {message_s, std::numeric_limits<double>::infinity(), 0});
  // The rank that comes last to a collective waits for nobody.
  for (std::size_t c = 0; c < Measured::kCollectives; ++c) {
    double least = all[0].collective[c];
    for (const Measured& m : all) least = std::min(least, m.collective[c]);
    p.collectives_s += least;
  }
  const Timeline timeline = simulate(schedule, costs);
  p.step_s = timeline.step_s;
  p.bubble = timeline.bubble;
  return p;
}

void report(const Pipeline& pipeline, const Group& control, double message_s) {
  const Schedule& schedule = pipeline.schedule();
  std::vector<double> predicted, error, bubble, update;
  for (std::size_t step = 0; step < pipeline.measured_s().size(); ++step) {
    const Measured mine = pipeline.measured(step);
    std::vector<Measured> all(static_cast<std::size_t>(control.size()));
    control.gather_values(&mine, sizeof(mine), all.data());
    const Prediction p = predict(schedule, all, message_s);
    predicted.push_back(p.total());
    error.push_back(p.total() / pipeline.measured_s()[step] - 1);
    bubble.push_back(p.bubble);
    update.push_back(p.update_s + p.collectives_s);
  }
  if (control.rank() != 0) return;
  fmt::print(
      "{{\"schedule\": \"{}\", \"stages\": {}, \"micro_batches\": {}, \"steps\": {}, \"measured_ms\": {:.2f}, "
      "\"predicted_ms\": {:.2f}, \"error\": {:.4f}, \"bubble\": {:.4f}, \"update_ms\": {:.2f}, \"message_ms\": "
      "{:.3f}}}\n",
      to_text(schedule.kind), schedule.stages, schedule.micro_batches, error.size(),
      median(pipeline.measured_s()) * 1e3, median(predicted) * 1e3, median(error), median(bubble), median(update) * 1e3,
      message_s * 1e3);
}

void run(const Sizes& sizes, const MpiSession& mpi) {
  require(mpi.size() == 2, ErrorKind::Usage, "pipeline_bench needs two ranks: mpirun -n 2 --bind-to core");
  const Group control = mpi.world("control");
  std::vector<std::unique_ptr<Pipeline>> pipelines;
  for (const ScheduleKind kind :
       {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1}) {
    pipelines.push_back(std::make_unique<Pipeline>(sizes, mpi, kind));
    for (int i = 0; i < 2; ++i) pipelines.back()->step(control, true);
  }
  for (std::int64_t i = 0; i < sizes.rounds * sizes.steps; ++i) {
    for (const auto& pipeline : pipelines) pipeline->step(control, false);
  }
  const double message_s = control.max(pipelines.front()->message_s());
  for (const auto& pipeline : pipelines) report(*pipeline, control, message_s);
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  ensure_environment(argv);
  Sizes sizes;
  const std::map<std::string_view, std::int64_t*> options{{"--layers", &sizes.layers},
                                                          {"--hidden", &sizes.hidden},
                                                          {"--heads", &sizes.heads},
                                                          {"--vocabulary", &sizes.vocabulary},
                                                          {"--micro-batches", &sizes.micro_batches},
                                                          {"--steps", &sizes.steps},
                                                          {"--rounds", &sizes.rounds}};
  for (int i = 1; i < argc; i += 2) {
    const auto found = options.find(argv[i]);
    if (found == options.end() || i + 1 == argc) {
      fmt::print(stderr, "pipeline_bench: '{}' is no option with a value\n", argv[i]);
      return static_cast<int>(ErrorKind::Usage);
    }
    *found->second = std::max(1, std::atoi(argv[i + 1]));
  }
  MpiSession mpi;
  try {
    run(sizes, mpi);
  } catch (const std::exception& error) {
    fail_run({mpi.rank(), host_name(), -1, ""}, error, [&](int code) { mpi.abort(code); });
  }
}
