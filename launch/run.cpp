#include "launch/run.hpp"

#include <algorithm>

#include "comm/group.hpp"
#include "kernels/cpu/gemm.hpp"
#include "launch/failure.hpp"
#include "launch/handshake.hpp"
#include "launch/layout_choice.hpp"
#include "launch/measured.hpp"
#include "launch/plan_file.hpp"
#include "launch/plan_question.hpp"
#include "launch/roles.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {

Run::Run(Config given, const MpiSession& session, Purpose purpose, const std::filesystem::path& plan)
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
  if (chief() && dtype_bytes(config.precision) == 2 && !backend.unfused.empty()) log_warn("{}", backend.unfused);
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
  if (backend.transports && !backend.transports->register_memory(engine->arena(), control) &&
      backend.transports->uses_nccl() && chief())
    log_info("NCCL does not register the arena: it copies whatever it sends");
}

// Makes the groups of a mesh, in the place of those of another. Collective.
void Run::connect(const Mesh& mesh) {
  if (connected == mesh) return;
  const bool native = config.comm.collectives == CollectiveSource::Mpi;
  Groups made = connect_groups(backend, mesh, place.rank, [&](const std::string& axis, const std::vector<int>& ranks) {
    return mpi.group(axis, ranks, native, transport_over(backend));
  });
  for (auto& [axis, group] : made) groups[axis] = std::move(group);  // where others point to
  connected = mesh;
}

std::int64_t Run::largest(std::int64_t mine) const { return static_cast<std::int64_t>(control.max(double(mine))); }

// All ranks plan alike, so they know what was measured: the largest of all ranks, and the budget of each.
void Run::agree_on_outside() {
  outside = largest(config.memory.reserve.value_or(outside_bytes(backend)));
  check_reserve(config, largest(least_outside_bytes(backend)));
}

// What groups of a device keep of its memory is known when they are made, and those of a mesh that was chosen now are
// made then: so what follows from their memory is chosen again.
void Run::choose(Purpose purpose) {
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

void Run::close() {
  if (backend.transports) backend.transports->close();
}

RankBudgets Run::measured_budgets() const {
  const std::int64_t mine = choose_budget(config, backend);
  std::vector<std::int64_t> all(static_cast<std::size_t>(place.ranks));
  control.gather_values(&mine, sizeof(mine), all.data());
  return RankBudgets(std::move(all));
}

std::optional<Infeasible> Run::infeasible_role(const std::vector<RankRole>& all) const {
  auto infeasible = check_budget(all, budgets, outside);
  return infeasible ? infeasible : check_host_budget(all, host_budget);
}

// The engine of `options`, whose roles fit. `connect` runs when all ranks agree about its programs.
void Run::make_engine(Purpose purpose, const std::function<void()>& connect) {
  Programs programs = build_programs(options);
  agree(control, programs, options);
  if (purpose == Purpose::Train) predict();
  // Sums in any case, for the report of times; spans where a trace was asked for.
  if (purpose == Purpose::Train) profile = traced() ? std::make_unique<Profile>() : std::make_unique<Profile>(0);
  connect();
  EngineOptions engine_options{threads, config.run.poison, {}, profile.get(), config.comm.overlap, &backend};
  for (const auto& [axis, group] : groups) engine_options.groups[axis] = &group;
  engine = std::make_unique<Engine>(std::move(programs), engine_options);
  check_device_memory();
}

// The engine has called every kernel of a device with memory of its own, so most of what libraries keep of it is there:
// a run that it makes too large does not begin.
void Run::check_device_memory() const {
  if (!backend.device->outside_bytes()) return;
  const std::int64_t now = bytes_outside_now(backend);
  const std::int64_t over = largest(now + engine->programs().plan.total_bytes - budgets.of(place.rank));
  const std::int64_t most = largest(now);
  require(over <= 0, ErrorKind::OutOfMemory,
          "once every kernel was called, {} of a GPU's memory are outside the arena, what other processes took of it "
          "meanwhile among it: {} more than memory.budget leaves; give a memory.reserve of at least the first",
          format_bytes(most), format_bytes(over));
}

// parallel.shares: auto. Measures replicas with the engine of even shares.
void Run::share() {
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
void Run::predict() {
  recompute = recompute_reports(roles, costs->costs(), recompute_choice);
  predict_times();
  costs->keep();
}

void Run::predict_times() {
  predicted = predict_step(roles, costs->machine(), shares ? shares->slowness() : std::vector<double>{});
  predicted_here = predicted.roles[static_cast<std::size_t>(&role_of(roles, place.rank) - roles.data())];
}

LoaderOptions Run::loader(Split split, std::int64_t first_step) const {
  const int replica = coordinates(options.mesh, place.rank).data;
  std::vector<std::int64_t> samples;  // evaluation is even
  for (const std::int64_t share : split == Split::Train ? options.shares : samples)
    samples.push_back(share * options.micro_batch);
  return {split,      config.train.global_batch, replica, options.mesh.data, options.micro_batch,
          first_step, std::move(samples)};
}

std::string Run::compute_text() const {
  if (config.device == DeviceKind::Cpu)
    return fmt::format("{} threads per rank, matrix products by {}, {:.0f} GFLOP/s measured on all ranks",
                       options.threads, gemm_description(), peak_gflops);
  const std::string carried = backend.transports ? ", messages by " + backend.transports->text() : "";
  return fmt::format("{}{}; peak of all ranks {:.0f} GFLOP/s", backend.device->description(), carried, peak_gflops);
}

PlanContext Run::plan_context() const {
  return {budgets, outside, config.memory.reserve ? "memory.reserve" : "measured", place.ranks, host_budget, recompute};
}

}  // namespace plimsoll
