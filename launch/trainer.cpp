#include "launch/trainer.hpp"

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "comm/group.hpp"
#include "kernels/cpu/gemm.hpp"
#include "launch/allocation_counter.hpp"
#include "launch/backend.hpp"
#include "launch/choices.hpp"
#include "launch/config_checks.hpp"
#include "launch/failure.hpp"
#include "launch/groups.hpp"
#include "launch/handshake.hpp"
#include "launch/layout_choice.hpp"
#include "launch/measured.hpp"
#include "launch/plan_file.hpp"
#include "launch/plan_question.hpp"
#include "launch/plan_report.hpp"
#include "launch/process.hpp"
#include "launch/progress.hpp"
#include "launch/reporter.hpp"
#include "launch/run_costs.hpp"
#include "launch/run_files.hpp"
#include "launch/run_setup.hpp"
#include "launch/share_choice.hpp"
#include "launch/state_choice.hpp"
#include "launch/step_times.hpp"
#include "optim/loss_scale.hpp"
#include "optim/schedule.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"
#include "runtime/data/loader.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;
std::atomic<std::int64_t> step_now{-1};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Everything of one rank, in the order in which it is made.
struct Run {
  const MpiSession& mpi;
  Config config;
  Config written;  // with `auto` where it was: another number of ranks may read it
  nlohmann::json asked;
  Place place;
  Group control;
  int threads = 1;  // of the host
  Backend backend;
  Groups groups;                  // may carry the memory of the backend's device
  std::optional<Mesh> connected;  // that groups are of
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Dataset> dataset;
  RankBudgets budgets;
  std::int64_t outside = 0, host_budget = 0;
  double peak_gflops = 0;  // of all ranks together
  ProgramOptions options;
  std::vector<RankRole> roles;
  std::unique_ptr<RunCosts> costs;
  StepPrediction predicted;
  RankTimes predicted_here;
  std::optional<RecomputeChoice> recompute_choice;  // where this start made it
  std::vector<RecomputeReport> recompute;           // by role
  std::optional<ShareChoice> shares;                // where this start chose them
  std::unique_ptr<Profile> profile;
  std::unique_ptr<Engine> engine;
  std::array<std::int64_t, kMeshAxes.size()> sent_in_steps{};

  Run(Config given, const MpiSession& session, Purpose purpose, const std::filesystem::path& plan = {})
      : mpi(session),
        config(std::move(given)),
        place{session.rank(), session.size(), session.local_rank(), session.local_size()},
        control(session.world("control")) {
    require(config.comm.transport != TransportName::Mpi || mpi.launched(), ErrorKind::Config,
            "{}: mpi needs a launcher: start with mpirun or srun", key_place(config, "comm.transport"));
    mpi.watchdog().set_deadline(config.comm.deadline);
    place.cores = cores_of_rank(control);
    written = config;
    check_for_ranks(config, place.ranks);
    tokenizer = data_tokenizer(config);
    complete_vocabulary(config, tokenizer.get());
    written.model = config.model;
    asked = plan_question(config);
    if (!plan.empty()) follow_plan(config, place.ranks, plan);
    if (purpose == Purpose::Train) keep_plan_choices(config, place.ranks);
    dataset = std::make_unique<Dataset>(config.data, config.run.seed, config.model.vocabulary);
    agree(control, config);
    if (purpose == Purpose::Train) clear_exit_reasons(config.run.dir, place.rank, place.ranks);
    threads = choose_threads(config, place);
    backend = make_backend(config, place, control, threads);
    if (purpose == Purpose::Train) peak_gflops = control.sum(peak_flops(backend, config, threads, place) * 1e-9);
    // A device's groups are made before the plan: what they keep of its memory is measured, and so are messages. A mesh
    // that is not known yet is one of replicas, and made again.
    if (backend.transports) {
      const Mesh replicas{.data = place.ranks, .shards = place.ranks};
      connect(config.parallel.automatic ? replicas : choose_mesh(config, place.ranks));
    }
    agree_on_outside();
    const bool on_host = !backend.device->outside_bytes();
    if (purpose == Purpose::Train && chief() && !config.memory.reserve && on_host)
      remember_outside_bytes(place.ranks, outside);
    budgets = config.memory.budget ? given_budgets(config, place.ranks) : measured_budgets();
    host_budget = choose_host_budget(config, place, backend, budgets.of(place.rank));
    host_budget = -static_cast<std::int64_t>(control.max(-static_cast<double>(host_budget)));
    const auto none = find_infeasible(config, place, purpose, budgets, outside, host_budget);
    require(!none, ErrorKind::OutOfMemory, "{}", none ? none->text : "");
    costs = std::make_unique<RunCosts>(config, place, &control, std::max<std::int64_t>(1, budgets.least() - outside),
                                       &backend, backend.transports ? &groups.find("world")->second : nullptr);
    if (auto choice = choose_layout(config, place, costs->machine(), budgets.least(), outside); choice && chief())
      fmt::print("{}", layout_text(*choice, costs->cluster(), budgets.least() - outside, false));
    choose(purpose);
    roles = rank_roles(options);
    if (!plan.empty()) check_followed(plan_json(roles, plan_context()), plan);
    const auto infeasible = infeasible_role(roles);
    require(!infeasible, ErrorKind::OutOfMemory, "{}", infeasible ? infeasible->text : "");
    make_engine(purpose, [&] { connect(options.mesh); });
    const bool shareable = options.mesh.data > 1 && options.micro_batches > 1;
    if (purpose == Purpose::Train && config.parallel.auto_shares && options.shares.empty() && shareable) share();
    if (backend.transports) backend.transports->register_memory(engine->arena());
  }

  // Makes the groups of a mesh, in the place of those of another. Collective.
  void connect(const Mesh& mesh) {
    if (connected == mesh) return;
    const bool native = config.comm.collectives == CollectiveSource::Mpi;
    Groups made =
        connect_groups(backend, mesh, place.rank, [&](const std::string& axis, const std::vector<int>& ranks) {
          return mpi.group(axis, ranks, native, transport_over(backend));
        });
    for (auto& [axis, group] : made) groups[axis] = std::move(group);  // where others point to
    connected = mesh;
  }
  std::int64_t largest(std::int64_t mine) const { return static_cast<std::int64_t>(control.max(double(mine))); }
  // All ranks plan alike, so they know what was measured: the largest of all ranks, and the budget of each.
  void agree_on_outside() {
    outside = largest(config.memory.reserve.value_or(outside_bytes(backend)));
    check_reserve(config, largest(measured_outside_bytes(backend)));
  }
  // What groups of a device keep of its memory is known when they are made, and those of a mesh that was chosen now are
  // made then: so what follows from their memory is chosen again.
  void choose(Purpose purpose) {
    const auto programs = [&] {
      return choose_programs(config, place, purpose, budgets, outside, host_budget, &costs->costs(), costs->profile(),
                             &recompute_choice);
    };
    if (backend.transports) {
      connect(choose_mesh(config, place.ranks));
      agree_on_outside();
    }
    options = programs();
    if (!backend.transports || connected == options.mesh) return;
    connect(options.mesh);
    agree_on_outside();
    options = programs();
    connect(options.mesh);
    agree_on_outside();
  }

  // Collective, when nothing is sent any more.
  void close() {
    if (backend.transports) backend.transports->close();
  }

  RankBudgets measured_budgets() const {
    const std::int64_t mine = choose_budget(config, backend);
    std::vector<std::int64_t> all(static_cast<std::size_t>(place.ranks));
    control.gather_values(&mine, sizeof(mine), all.data());
    return RankBudgets(std::move(all));
  }

  std::optional<Infeasible> infeasible_role(const std::vector<RankRole>& all) const {
    auto infeasible = check_budget(all, budgets, outside);
    return infeasible ? infeasible : check_host_budget(all, host_budget);
  }

  // The engine of `options`, whose roles fit. `connect` runs when all ranks agree about its programs.
  void make_engine(Purpose purpose, const std::function<void()>& connect) {
    Programs programs = build_programs(options);
    agree(control, programs, options);
    if (purpose == Purpose::Train) predict();
    // Sums in any case, for the report of times; spans where a trace was asked for.
    if (purpose == Purpose::Train) profile = traced() ? std::make_unique<Profile>() : std::make_unique<Profile>(0);
    connect();
    EngineOptions engine_options{threads, config.run.poison, {}, profile.get(), config.comm.overlap, &backend};
    for (const auto& [axis, group] : groups) engine_options.groups[axis] = &group;
    engine = std::make_unique<Engine>(std::move(programs), engine_options);
  }

  // parallel.shares: auto. Measures replicas with the engine of even shares.
  void share() {
    engine->initialise(config.run.seed);
    BatchLoader batches(*dataset, loader(Split::Train, 0));
    const Batch& batch = batches.next();
    std::vector<double> micro_batch_s = measure_replicas(
        *engine, options, control, {batch.tokens, batch.targets, static_cast<std::uint64_t>(batch.first_sample)});
    const bool pipeline = options.mesh.pipeline > 1;
    shares = choose_shares(options, std::move(micro_batch_s),
                           [&](const ProgramOptions& with) { return !pipeline || !infeasible_role(rank_roles(with)); });
    set_shares(options, shares->shares, 0);
    config.parallel.shares = shares->shares;
    if (pipeline) {
      engine.reset();
      roles = rank_roles(options);
      make_engine(Purpose::Train, [] {});
    } else {  // their programs do not depend on it
      for (RankRole& role : roles) set_shares(role.options, shares->shares, 0);
      agree_on(control, plan_agreement(engine->programs(), options));
      predict_times();
    }
    if (chief()) fmt::print("{}", shares_text(*shares));
  }

  // After the budget was checked, so that a run that does not fit measures nothing that its choices did not need.
  void predict() {
    recompute = recompute_reports(roles, costs->costs(), recompute_choice);
    predict_times();
    costs->keep();
  }
  void predict_times() {
    predicted = predict_step(roles, costs->machine(), shares ? shares->slowness() : std::vector<double>{});
    predicted_here = predicted.roles[static_cast<std::size_t>(&role_of(roles, place.rank) - roles.data())];
  }
  std::int64_t micro_batches() const { return micro_batches_of(options, place.rank); }

  LoaderOptions loader(Split split, std::int64_t first_step) const {
    const int replica = coordinates(options.mesh, place.rank).data;
    std::vector<std::int64_t> samples;  // evaluation is even
    for (const std::int64_t share : split == Split::Train ? options.shares : samples)
      samples.push_back(share * options.micro_batch);
    return {split,      config.train.global_batch, replica, options.mesh.data, options.micro_batch,
            first_step, std::move(samples)};
  }
  bool traced() const { return !config.run.trace.empty(); }
  bool chief() const { return place.rank == 0; }
  std::string compute_text() const {
    if (config.device == DeviceKind::Cpu)
      return fmt::format("{} threads per rank, matrix products by {}, {:.0f} GFLOP/s measured on all ranks",
                         options.threads, gemm_description(), peak_gflops);
    const std::string carried = backend.transports ? ", messages by " + backend.transports->text() : "";
    return fmt::format("{}{}; peak of all ranks {:.0f} GFLOP/s", backend.device->description(), carried, peak_gflops);
  }
  PlanContext plan_context() const {
    return {budgets,     outside,     config.memory.reserve ? "memory.reserve" : "measured",
            place.ranks, host_budget, recompute};
  }
};

std::string trace_path(const Run& run) {
  return run.config.run.trace + (run.place.ranks > 1 ? fmt::format(".{}", run.place.rank) : "");
}

std::pair<double, std::int64_t> validation_loss(Run& run, BatchLoader& loader, std::optional<std::int64_t> limit,
                                                bool quiet) {
  const Watchdog::InStep in_step(run.mpi.watchdog(), Watchdog::StepKind::Evaluation);
  PartProgress progress("evaluating", "batches", run.chief() && !quiet);
  loader.restart(0);
  double sum = 0, count = 0;
  const std::int64_t steps = limit ? std::min(*limit, loader.steps()) : loader.steps();
  const std::int64_t batches = steps * loader.micro_batches();
  for (std::int64_t i = 0; i < batches; ++i) {
    progress.update(i, batches);
    const Batch& batch = loader.next();
    // A replica that has no samples left still gathers parameters with the others.
    if (batch.valid_targets > 0 || run.options.zero == 3)
      run.engine->evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
  }
  progress.finish();
  sum = run.control.sum(sum);
  count = run.control.sum(count);
  // Every rank of a tensor group has counted the targets of its replica.
  return {sum / count, static_cast<std::int64_t>(count) / run.options.mesh.tensor};
}

// Valid targets of a global training batch: every window is full.
double targets_per_step(const Run& run) {
  return static_cast<double>(run.config.train.global_batch * run.config.data.sequence);
}

std::array<std::int64_t, kMeshAxes.size()> bytes_sent(const Run& run) {
  std::array<std::int64_t, kMeshAxes.size()> sent{};
  for (std::size_t a = 0; a < sent.size(); ++a) sent[a] = run.groups.find(kMeshAxes[a])->second.bytes_sent();
  return sent;
}

StepResult train_step(Run& run, BatchLoader& loader, const TrainingState& state) {
  const Watchdog::InStep in_step(run.mpi.watchdog());
  const auto next = [&](std::int64_t) {
    const Batch& batch = loader.next();
    return MicroBatch{batch.tokens, batch.targets, static_cast<std::uint64_t>(batch.first_sample)};
  };
  const auto before = bytes_sent(run);
  run.engine->set_loss_scale(state.loss_scale);
  run.engine->train_micro_batches(loader.micro_batches(), next, 1.0 / targets_per_step(run));
  const double lr = learning_rate(run.config.schedule, run.config.optimizer.lr, state.step, run.config.train.steps);
  const StepResult result = run.engine->update(lr, static_cast<std::uint64_t>(state.step), state.applied_updates);
  const auto after = bytes_sent(run);
  for (std::size_t a = 0; a < before.size(); ++a) run.sent_in_steps[a] += after[a] - before[a];
  return result;
}

std::unique_ptr<Reporter> make_reporter(const Run& run, std::int64_t first_step) {
  const double tokens = targets_per_step(run);
  const double flops = static_cast<double>(run.engine->programs().train_flops_per_micro_batch) /
                       static_cast<double>(run.options.micro_batch * run.options.sequence) * tokens;
  return std::make_unique<Reporter>(run.config, first_step, flops, tokens, run.peak_gflops,
                                    run.budgets.of(run.place.rank), StepTime{run.predicted.step_s, run.costs->text()});
}

// `before`: the sums at the end of the first of `steps` steps where there are several, else at its beginning.
RankSummary rank_summary(Run& run, const std::vector<Profile::Sum>& before, std::int64_t steps) {
  RankSummary s;
  const MemoryPlan& plan = run.engine->programs().plan;
  s.rank = run.place.rank;
  s.budget_bytes = run.budgets.of(run.place.rank);
  s.planned_bytes = plan.total_bytes;
  s.arena_high_water_bytes = run.engine->arena().high_water();
  s.peak_process_bytes = peak_rss_bytes();
  s.host_budget_bytes = run.host_budget;
  s.host_planned_bytes = plan.host_bytes;
  if (const Arena* host = run.engine->host_arena()) s.host_high_water_bytes = host->high_water();
  s.outside_arena_bytes = s.peak_process_bytes - plan.total_bytes - plan.host_bytes;
  if (run.backend.device->outside_bytes()) {
    s.outside_arena_bytes = bytes_outside_now(run.backend);
    s.peak_process_bytes = s.outside_arena_bytes + plan.total_bytes;
  }
  s.allocations_after_first_step = AllocationCounter::count();
  s.class_bytes = plan.class_bytes;
  s.measured_class_bytes = run.engine->seen_class_bytes();
  s.collective_bytes = run.sent_in_steps;
  s.padding_bytes = plan.padding_bytes;
  s.predicted = run.predicted_here;
  s.measured = measured_times(*run.profile, before, std::max<std::int64_t>(1, steps - 1), run.micro_batches());
  return s;
}

// Saves, and counts how often that failed in a row: a run goes on without a checkpoint, but not without its last one,
// and not when three in a row failed.
void save(Run& run, const TrainingState& state, Reporter* reporter, std::int64_t& failed) {
  constexpr std::int64_t kMostFailures = 3;
  const std::optional<std::string> error = save_run(run.config, *run.engine, run.control, state);
  failed = run.control.max(error ? 1 : 0) > 0 ? failed + 1 : 0;
  if (failed == 0) {
    if (reporter != nullptr)
      reporter->saved((checkpoint_folder(run.config) / checkpoint_folder_name(state.step)).string());
    return;
  }
  const std::string text =
      fmt::format("step {}: the checkpoint was not saved: {}", state.step, error.value_or("rank 0 could not write it"));
  require(failed < kMostFailures && state.step != run.config.train.steps, ErrorKind::CheckpointIo, "{}", text);
  if (reporter != nullptr) reporter->warn(text);
}

void finish(Run& run, Reporter* reporter, const RankSummary& mine) {
  const std::vector<RankSummary> ranks = gather_summaries(run.control, mine);
  if (reporter != nullptr) {
    fmt::print("{}", reporter->finish(ranks));
    for (const std::string& fault : memory_faults(ranks)) log_warn("{}", fault);
  }
  if (!run.traced()) return;
  if (reporter != nullptr) fmt::print("{}", run.profile->table());
  run.profile->write_trace(trace_path(run), run.place.rank);
}

// Ordinary text has no padding; who has it in the data should know that its row is trained.
void warn_of_padding(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  if (const std::optional<std::int64_t> id = padding_id(read_json_file(file)))
    log_warn("{}: pad_token_id: {} is a token like any other here; transformers would not train its embedding",
             file.string(), *id);
}

TrainingState first_state(Run& run) {
  if (auto loaded = load_run(run.config, *run.engine)) {
    if (run.chief()) log_info("{}: resuming at step {}", run.config.run.dir, loaded->step);
    run.engine->set_seed(loaded->seed);
    return *loaded;
  }
  run.engine->initialise(run.config.run.seed);
  if (!run.config.model.from.empty()) {
    run.engine->load(HuggingFaceWeights::open(run.config.model.from));
    if (run.chief()) warn_of_padding(run.config.model.from);
  }
  TrainingState state;
  state.seed = run.config.run.seed;
  state.loss_scale = first_loss_scale(run.config.precision).scale;
  return state;
}

}  // namespace

std::int64_t current_step() { return step_now; }

void train(Config given, const MpiSession& mpi, const std::filesystem::path& plan) {
  Run run(std::move(given), mpi, Purpose::Train, plan);
  const Config& config = run.config;
  if (run.chief()) {
    fmt::print("{}{}{}\n", plan_text(run.roles, run.plan_context(), nullptr), idle_text(config, run.options.mesh.data),
               run.compute_text());
    std::fflush(stdout);
  }
  if (run.traced()) run.profile->write_trace(trace_path(run), run.place.rank);  // fails now rather than at the end
  TrainingState state = first_state(run);
  // Only now: a run directory of another run was refused as it was.
  if (run.chief()) {
    nlohmann::json made = whole_plan_json(config, run.asked, run.roles, run.plan_context());
    if (run.shares) made["shares_by_speed"] = shares_json(*run.shares);
    write_run_files(run.written,
                    run_choices(config, run.options, run.budgets, run.outside, run.host_budget, run.place.ranks),
                    made.dump(2));
  }
  run.roles.clear();  // the graphs of all stages
  if (state.step >= config.train.steps) {
    if (run.chief()) fmt::print("{}: the run is finished ({} steps)\n", config.run.dir, state.step);
    return run.close();
  }
  BatchLoader loader(*run.dataset, run.loader(Split::Train, state.step));
  std::unique_ptr<BatchLoader> validation;
  if (run.dataset->validation_samples() > 0)
    validation = std::make_unique<BatchLoader>(*run.dataset, run.loader(Split::Validation, 0));
  std::unique_ptr<Reporter> reporter;
  if (run.chief()) reporter = make_reporter(run, state.step);

  std::int64_t skipped = 0, unsaved = 0;
  const std::vector<Profile::Sum> sums_before = run.profile->sums();  // of what was timed before step 0
  std::vector<Profile::Sum> sums_after_first;
  const std::int64_t first_step = state.step;
  while (state.step < config.train.steps) {
    step_now = state.step;
    const auto begin = Clock::now();
    const double lr = learning_rate(config.schedule, config.optimizer.lr, state.step, config.train.steps);
    const StepResult result = train_step(run, loader, state);
    skipped = result.applied ? 0 : skipped + 1;
    if (reporter && skipped > 0) reporter->skipped_step(state.step + 1, skipped);
    // A scale that is too large says nothing about the run, until it cannot fall any more.
    require(skipped <= 3 || state.loss_scale > LossScale::kLeast, ErrorKind::Numerical,
            "step {}: the gradients were not finite for {} steps in a row", state.step, skipped);
    const double scale = state.loss_scale;
    if (has_loss_scale(config.precision)) {
      const LossScale next = after_step({state.loss_scale, state.loss_scale_streak}, result.applied);
      state.loss_scale = next.scale;
      state.loss_scale_streak = next.streak;
    }
    state.applied_updates += result.applied ? 1 : 0;
    state.tokens += static_cast<std::int64_t>(targets_per_step(run));
    ++state.step;
    state.next_sample = state.step * config.train.global_batch;
    if (reporter) {
      StepMetrics metrics;
      metrics.step = state.step;
      metrics.tokens = state.tokens;
      metrics.loss = result.loss();
      metrics.lr = lr;
      metrics.grad_norm = result.grad_norm;
      if (has_loss_scale(config.precision)) metrics.loss_scale = scale;
      reporter->step(metrics, seconds_since(begin));
    }
    if (state.step == first_step + 1) {
      sums_after_first = run.profile->sums();
      AllocationCounter::start();
    }
    const bool last = state.step == config.train.steps;
    if (validation && (last || (config.run.eval_every > 0 && state.step % config.run.eval_every == 0))) {
      const double loss = validation_loss(run, *validation, config.train.eval_batches, false).first;
      if (reporter) reporter->validation(state.step, loss);
    }
    if (last || (config.run.save_every > 0 && state.step % config.run.save_every == 0))
      save(run, state, reporter.get(), unsaved);
  }
  const std::int64_t steps = state.step - first_step;
  finish(run, reporter.get(), rank_summary(run, steps > 1 ? sums_after_first : sums_before, steps));
  run.close();
  step_now = -1;
}

Evaluation evaluate(Config given, const MpiSession& mpi, const EvaluateOptions& options) {
  Run run(std::move(given), mpi, Purpose::Evaluate);
  require(run.dataset->validation_samples() > 0, ErrorKind::Config, "{}: is 0: there is nothing to evaluate",
          key_place(run.config, "data.validation"));
  Evaluation result;
  if (auto state = load_run(run.config, *run.engine)) {
    result.source = fmt::format("{} at step {}", run.config.run.dir, state->step);
  } else {
    require(!run.config.model.from.empty(), ErrorKind::MissingInput,
            "{}: has no checkpoint, and model.from names no weights", run.config.run.dir);
    run.engine->load(HuggingFaceWeights::open(run.config.model.from));
    result.source = run.config.model.from;
  }
  BatchLoader loader(*run.dataset, run.loader(Split::Validation, 0));
  result.whole = !options.batches || *options.batches >= loader.steps();
  std::tie(result.loss, result.targets) = validation_loss(run, loader, options.batches, options.quiet);
  run.close();
  return result;
}

}  // namespace plimsoll
