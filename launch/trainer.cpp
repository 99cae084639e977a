#include "launch/trainer.hpp"

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>

#include "launch/allocation_counter.hpp"
#include "launch/backend.hpp"
#include "launch/choices.hpp"
#include "launch/config_checks.hpp"
#include "launch/plan_report.hpp"
#include "launch/process.hpp"
#include "launch/progress.hpp"
#include "launch/reporter.hpp"
#include "launch/run.hpp"
#include "launch/run_files.hpp"
#include "launch/share_choice.hpp"
#include "launch/step_times.hpp"
#include "optim/loss_scale.hpp"
#include "optim/schedule.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/core/log.hpp"
#include "runtime/data/loader.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;
std::atomic<std::int64_t> step_now{-1};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

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
RankSummary rank_summary(Run& run, const std::vector<Profile::Sum>& before, std::int64_t steps,
                         std::int64_t outside_peak) {
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
    s.device_memory = true;
    s.outside_arena_bytes = outside_peak;
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

// Of what the budget is for: now, or on a device the most that was seen.
std::int64_t memory_held(const Run& run, const OutsidePeak& outside) {
  if (!run.backend.device->outside_bytes()) return current_rss_bytes();
  return run.engine->programs().plan.total_bytes + outside.bytes();
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

// The summaries of all ranks. Collective.
std::vector<RankSummary> finish(Run& run, Reporter* reporter, const RankSummary& mine) {
  std::vector<RankSummary> ranks = gather_summaries(run.control, mine);
  if (reporter != nullptr) fmt::print("{}", reporter->finish(ranks));
  if (!run.traced()) return ranks;
  if (reporter != nullptr) fmt::print("{}", run.profile->table());
  run.profile->write_trace(trace_path(run), run.place.rank);
  return ranks;
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
  state.loss_scale = first_loss_scale(run.config.precision, run.config.optimizer.loss_scale).scale;
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
  if (run.traced() && run.backend.records && run.chief())
    log_info("run.trace: every node is launched and timed by itself, without cuda.graphs; the step takes longer");
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
  OutsidePeak outside(run.backend);
  const std::vector<Profile::Sum> sums_before = run.profile->sums();  // of what was timed before step 0
  std::vector<Profile::Sum> sums_after_first;
  const std::int64_t first_step = state.step;
  while (state.step < config.train.steps) {
    step_now = state.step;
    const auto begin = Clock::now();
    const double lr = learning_rate(config.schedule, config.optimizer.lr, state.step, config.train.steps);
    const StepResult result = train_step(run, loader, state);
    const double seconds = seconds_since(begin);
    skipped = result.applied ? 0 : skipped + 1;
    if (reporter && skipped > 0) reporter->skipped_step(state.step + 1, skipped);
    // A scale that is too large says nothing about the run, until it cannot fall any more.
    require(skipped <= 3 || state.loss_scale > LossScale::kLeast, ErrorKind::Numerical,
            "step {}: the gradients were not finite for {} steps in a row", state.step, skipped);
    const double scale = state.loss_scale;
    if (has_loss_scale(config.precision)) {
      const LossScale next =
          after_step({state.loss_scale, state.loss_scale_streak}, result.applied, config.optimizer.loss_scale);
      state.loss_scale = next.scale;
      state.loss_scale_streak = next.streak;
    }
    state.applied_updates += result.applied ? 1 : 0;
    state.tokens += static_cast<std::int64_t>(targets_per_step(run));
    ++state.step;
    state.next_sample = state.step * config.train.global_batch;
    // Kernels are loaded in the first step and recorded in the second; what comes later is seen where a line is logged.
    const bool logged = config.run.log_every > 0 && state.step % config.run.log_every == 0;
    if (state.step <= first_step + 2 || logged) outside.look();
    if (reporter) {
      StepMetrics metrics;
      metrics.step = state.step;
      metrics.tokens = state.tokens;
      metrics.loss = result.loss();
      metrics.lr = lr;
      metrics.grad_norm = result.grad_norm;
      if (has_loss_scale(config.precision)) metrics.loss_scale = scale;
      reporter->step(metrics, seconds, memory_held(run, outside));
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
  const auto ranks =
      finish(run, reporter.get(), rank_summary(run, steps > 1 ? sums_after_first : sums_before, steps, outside.look()));
  run.close();
  step_now = -1;
  check_memory_held(ranks);
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
