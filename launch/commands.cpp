#include "launch/commands.hpp"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "launch/backend.hpp"
#include "launch/config_checks.hpp"
#include "launch/config_keys.hpp"
#include "launch/export.hpp"
#include "launch/info.hpp"
#include "launch/layout_choice.hpp"
#include "launch/measured.hpp"
#include "launch/nearest_changes.hpp"
#include "launch/plan_file.hpp"
#include "launch/plan_question.hpp"
#include "launch/plan_report.hpp"
#include "launch/plan_why.hpp"
#include "launch/process.hpp"
#include "launch/progress.hpp"
#include "launch/run_costs.hpp"
#include "launch/run_files.hpp"
#include "launch/run_setup.hpp"
#include "launch/state_choice.hpp"
#include "launch/step_times.hpp"
#include "launch/trainer.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface.hpp"
#include "runtime/plan/gantt.hpp"
#include "runtime/plan/memory_chart.hpp"

namespace plimsoll {
namespace {

void print_json(const nlohmann::json& json) { fmt::print("{}\n", json.dump(2)); }

// What a process needs besides its arena when nothing was measured: image, libraries, MPI.
constexpr std::int64_t kOutsideEstimate = std::int64_t{160} << 20;

// A configuration for planning: data need not exist when the model says its vocabulary.
Config planning_config(const ConfigArguments& arguments, int ranks) {
  Config config = load_config(arguments.path, arguments.overrides);
  check_for_ranks(config, ranks);
  if (config.model.vocabulary == 0) complete_vocabulary(config, data_tokenizer(config).get());
  return config;
}

}  // namespace

int command_train(const ConfigArguments& arguments, const std::string& plan, const MpiSession& mpi,
                  std::string& run_dir) {
  Config config = load_config(arguments.path, arguments.overrides);
  run_dir = config.run.dir;
  train(std::move(config), mpi, plan);
  return 0;
}

int command_eval(const ConfigArguments& arguments, const EvalArguments& eval, const MpiSession& mpi) {
  const Evaluation e =
      evaluate(load_config(arguments.path, arguments.overrides), mpi, {eval.batches, eval.json || mpi.rank() != 0});
  if (mpi.rank() != 0) return 0;
  if (eval.json) {
    print_json({{"validation_loss", e.loss}, {"targets", e.targets}, {"whole_split", e.whole}, {"weights", e.source}});
  } else {
    fmt::print("validation loss {} over {} targets, {} of the validation split ({})\n", e.loss, format_count(e.targets),
               e.whole ? "all" : "a part", e.source);
  }
  return 0;
}

int command_generate(const GenerateArguments& a) {
  GenerationSource source = open_generation_source(a.source, a.overrides, a.tokenizer);
  Place place;
  const std::vector<std::int32_t> prompt = source.tokenizer->encode(a.prompt);
  require(!prompt.empty(), ErrorKind::Usage, "--prompt is empty: there is nothing to continue");
  ProgramOptions options = choose_programs(source.config, place, Purpose::Generate, 0, 0);
  // Keys and values of what there will be, and no more.
  options.cache_positions = std::min(options.cache_positions, std::ssize(prompt) + a.tokens);
  Programs programs = build_programs(options);
  const Group self("control", make_self_transport());
  const int threads = choose_threads(source.config, place);
  Backend backend = make_backend(source.config, place, self, threads);
  check_reserve(source.config, least_outside_bytes(backend));
  const auto infeasible = check_budget(programs, options, choose_budget(source.config, backend),
                                       source.config.memory.reserve.value_or(outside_bytes(backend)));
  require(!infeasible, ErrorKind::OutOfMemory, "{}\nnearest change:\n  --set memory.budget={}",
          infeasible ? infeasible->text : "", infeasible ? infeasible->needed_bytes : 0);
  EngineOptions engine_options;
  engine_options.threads = threads;
  engine_options.backend = &backend;
  Engine engine(std::move(programs), engine_options);
  engine.load(HuggingFaceWeights::open(source.weights));
  std::vector<std::int32_t> made;
  std::string shown;
  // Bytes and pieces may be parts of a character: what is printed is what the whole text has gained.
  const auto on_token = [&](std::int32_t token) {
    if (source.tokenizer->end_of_document() == token) return false;
    made.push_back(token);
    const std::string text = source.tokenizer->decode(made);
    if (!a.json && text.size() > shown.size()) fmt::print("{}", text.substr(shown.size()));
    std::fflush(stdout);
    shown = text;
    return true;
  };
  if (!a.json) fmt::print("{}", a.prompt);
  SamplingOptions sampling = a.sampling;
  sampling.ids = source.tokenizer->vocabulary();
  generate(engine, prompt, a.tokens, sampling, on_token);
  if (a.json) {
    print_json({{"prompt", a.prompt},
                {"text", nlohmann::json::parse(
                             nlohmann::json(shown).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))},
                {"tokens", made},
                {"weights", source.weights.string()}});
  } else {
    fmt::print("\n");
  }
  return 0;
}

int command_prepare(const PrepareArguments& a) {
  PrepareOptions options = a.options;
  if (!a.tokenizer.empty()) {
    options.tokenizer = parse_tokenizer_kind(a.tokenizer);
    const std::vector<std::string> names{"byte", "char", "sentencepiece"};
    const auto near = nearest_name(a.tokenizer, names);
    require(options.tokenizer.has_value(), ErrorKind::Usage, "--tokenizer '{}': is not byte, char or sentencepiece{}",
            a.tokenizer, near ? fmt::format(" (did you mean '{}'?)", *near) : "");
  }
  PartProgress progress("preparing", "", !a.json);
  const PrepareResult r =
      prepare(options, [&](std::int64_t done, std::int64_t total) { progress.update(done, total); });
  progress.finish();
  if (a.json) {
    print_json({{"documents", r.documents},
                {"tokens", r.tokens},
                {"text_bytes", r.text_bytes},
                {"unknown_tokens", r.unknown_tokens},
                {"vocabulary", r.vocabulary},
                {"tokenizer", r.tokenizer},
                {"out", options.out}});
  } else {
    fmt::print("{}: {} tokens from {} of text in {} document(s), {} tokenizer with {} ids\n", options.out,
               format_count(r.tokens), format_bytes(r.text_bytes), r.documents, r.tokenizer, r.vocabulary);
    if (r.unknown_tokens > 0) fmt::print("{} tokens are unknown to the tokenizer\n", format_count(r.unknown_tokens));
  }
  return 0;
}

namespace {

nlohmann::json infeasible_json(const Infeasible& infeasible) {
  nlohmann::json json{{"needed_bytes", infeasible.needed_bytes},
                      {"budget_bytes", infeasible.budget_bytes},
                      {"missing_bytes", infeasible.needed_bytes - infeasible.budget_bytes},
                      {"bound_bytes", infeasible.bound_bytes},
                      {"of", infeasible.of_host ? "host memory" : "memory"},
                      {"changes", nlohmann::json::array()},
                      {"text", infeasible.text}};
  for (const NearestChange& change : infeasible.changes)
    json["changes"].push_back({{"set", change.settings},
                               {"ranks", change.ranks},
                               {"needed_bytes", change.needed_bytes},
                               {"host_bytes", change.host_bytes},
                               {"fits", change.fits}});
  return json;
}

// The step of the role that is shown, on the clock.
void draw_step(const RankRole& role, const Timeline& timeline, const PlanContext& context, const PlanArguments& plan,
               bool json) {
  require(role.programs.schedule != nullptr || (!plan.gantt && plan.gantt_svg.empty()), ErrorKind::Usage,
          "--gantt draws the schedule of a pipeline: parallel.pipeline is 1");
  if (plan.gantt && !json) fmt::print("{}", gantt_text(timeline));
  if (!plan.gantt_svg.empty()) replace_file(plan.gantt_svg, gantt_svg(timeline));
  if (plan.svg.empty()) return;
  const StepOfRank step{&role.programs.graph("train"), &timeline, role.programs.schedule ? role.programs.stage : 0};
  replace_file(plan.svg, step_svg(role.programs.plan, "train", step,
                                  {context.outside_bytes, context.budget_bytes.least_of(role.ranks)}));
}

std::int64_t arena_budget(const PlanContext& context) {
  return context.budget_bytes.least() > 0 ? context.budget_bytes.least() - context.outside_bytes : 0;
}

// `parallel: auto`, or a prediction for an explicit layout where a cluster is named or somebody asks why. A device of a
// named cluster also says what it has and keeps, where the configuration does not; a GPU what it keeps.
std::optional<LayoutChoice> plan_layouts(Config& config, const Place& place, const RunCosts& costs, bool why,
                                         PlanContext& context) {
  const bool named = !config.comm.cluster.empty();
  if (named) require_devices(costs.cluster(), place.ranks);
  const DeviceDescription& device = costs.cluster().device;
  if ((named || config.device == DeviceKind::Cuda) && !config.memory.reserve) {
    context.outside_bytes = device.outside_bytes;
    context.outside_source = "description";
  }
  if (!named && !config.parallel.automatic && !why) return std::nullopt;
  if (named && context.budget_bytes.least() == 0) context.budget_bytes = device.memory_bytes;
  if (auto choice = choose_layout(config, place, costs.machine(), context.budget_bytes.least(), context.outside_bytes))
    return choice;
  return predict_layout(config, place, costs.machine(), context.budget_bytes, context.outside_bytes);
}

}  // namespace

int command_plan(const ConfigArguments& arguments, const PlanArguments& plan, bool json) {
  require(!plan.rank || plan.peak || !plan.svg.empty(), ErrorKind::Usage,
          "--rank says whose memory --peak lists and --svg draws: give one of them");
  require(!plan.rank || *plan.rank < plan.ranks, ErrorKind::Usage, "--rank {}: the ranks of --ranks {} are 0 to {}",
          plan.rank.value_or(0), plan.ranks, plan.ranks - 1);
  std::vector<std::string> overrides = arguments.overrides;
  if (!plan.budget.empty()) overrides.push_back("memory.budget=" + plan.budget);
  if (plan.threads) overrides.push_back(fmt::format("run.threads={}", *plan.threads));
  Config config = planning_config({arguments.path, overrides}, plan.ranks);
  if (!plan.cluster.empty()) config.comm.cluster = plan.cluster;
  const Place place{0, plan.ranks, 0, plan.ranks};  // as train would find it with all ranks on this machine
  PlanContext context;
  context.ranks = plan.ranks;
  context.budget_bytes =
      config.parallel.automatic ? config.memory.budget.value_or(0) : given_budgets(config, plan.ranks);
  const auto remembered = config.memory.reserve ? config.memory.reserve : remembered_outside_bytes(plan.ranks);
  context.outside_bytes = remembered.value_or(kOutsideEstimate);
  context.outside_source = config.memory.reserve ? "memory.reserve" : remembered ? "last run" : "estimate";
  context.host_budget_bytes = config.memory.host_budget;
  const std::int64_t host_bytes = config.memory.host_budget.value_or(kNoHostLimit);
  const RunCosts costs(config, place, nullptr, 0);
  const Config given = config;
  const std::optional<LayoutChoice> layouts = plan_layouts(config, place, costs, plan.why, context);
  std::optional<RecomputeChoice> recompute;
  const ProgramOptions options =
      choose_programs(config, place, Purpose::Train, context.budget_bytes, context.outside_bytes, host_bytes,
                      &costs.costs(), costs.profile(), &recompute);
  const std::vector<RankRole> roles = rank_roles(options);
  context.recompute = recompute_reports(roles, costs.costs(), recompute);
  for (const RankRole& role : roles) {
    const auto bad = plan.verify ? check_memory(role.programs.list(), role.programs.plan) : std::nullopt;
    require(!bad, ErrorKind::Internal, "the plan of {} does not hold: {}", role.name, bad.value_or(""));
  }
  const StepReport step = report_step(roles, costs.machine());
  const RankRole& shown = plan.rank ? role_of(roles, *plan.rank) : largest_role(roles);
  std::optional<Infeasible> infeasible;
  if (context.budget_bytes.least() > 0) infeasible = check_budget(roles, context.budget_bytes, context.outside_bytes);
  if (!infeasible) infeasible = check_host_budget(roles, host_bytes);
  const bool layout_chosen = given.parallel.automatic;
  if (infeasible)
    add_nearest_changes(*infeasible,
                        {config, layout_chosen, place, Purpose::Train, context.budget_bytes, context.outside_bytes,
                         host_bytes, &costs.costs(), costs.profile()},
                        options);
  std::optional<PlanWhy> why;
  if (plan.why && !infeasible) why = explain_plan(given, place, costs.machine(), *layouts, roles, context);
  if (json) {
    nlohmann::json report = plan_json(roles, context);
    report["step"] = step_json(step, roles, costs.text());
    if (infeasible) report["infeasible"] = infeasible_json(*infeasible);
    if (plan.verify) report["verified"] = true;
    if (layouts) report["layouts"] = layout_json(*layouts, plan.why);
    if (why) report["why"] = why_json(*why);
    print_json(report);
  } else {
    if (layouts) fmt::print("{}", layout_text(*layouts, costs.cluster(), arena_budget(context), plan.why));
    fmt::print("{}{}{}", plan_text(roles, context, plan.peak ? &shown : nullptr), idle_text(config, options.mesh.data),
               step_text(step, roles, costs.text()));
    if (why) fmt::print("{}", why_text(*why));
    if (plan.verify) fmt::print("verified: every program replays without overlap, and its peak is the planned one\n");
  }
  draw_step(shown, *step.prediction.timelines[static_cast<std::size_t>(&shown - roles.data())], context, plan, json);
  require(!infeasible, ErrorKind::OutOfMemory, "{}", infeasible ? infeasible->text : "");
  if (!plan.out.empty()) {
    nlohmann::json whole = whole_plan_json(config, plan_question(given), roles, context);
    whole["step"] = step_json(step, roles, costs.text());
    const bool written = write_plan(plan.out, whole, plan.default_out);
    if (written && !json) fmt::print("{}: written, for train --plan\n", plan.out);
  }
  return 0;
}

int command_graph(const ConfigArguments& arguments, const GraphArguments& graph) {
  require(graph.rank < graph.ranks, ErrorKind::Usage, "--rank {}: the ranks of --ranks {} are 0 to {}", graph.rank,
          graph.ranks, graph.ranks - 1);
  Config config = planning_config(arguments, graph.ranks);
  const Place place{graph.rank, graph.ranks, graph.rank, graph.ranks};
  choose_layout(config, place, RunCosts(config, place, nullptr, 0).machine(), 0, 0);
  ProgramOptions options = choose_programs(config, place, Purpose::Train, 0, 0);
  options.logits = graph.program == "logits";
  if (graph.program == "prefill" || graph.program == "decode") options.cache_positions = config.model.positions;
  const Programs programs = build_programs(options);
  std::vector<std::string> names = programs.names;
  for (const char* name : {"logits", "prefill", "decode"}) {  // of generation, beside those of training
    if (!programs.has(name)) names.emplace_back(name);
  }
  require(programs.has(graph.program), ErrorKind::Usage, "--program '{}': this configuration has {}", graph.program,
          join(names, ", "));
  fmt::print("{}", graph.dot ? dump_graphviz(programs.graph(graph.program)) : dump_text(programs.graph(graph.program)));
  return 0;
}

int command_config(const ConfigArguments& arguments, bool json) {
  if (arguments.path.empty()) {
    require(arguments.overrides.empty(), ErrorKind::Usage, "--set changes a file: plimsoll config CONFIG --set {}",
            arguments.overrides.empty() ? "" : arguments.overrides.front());
    fmt::print("{}", describe_keys(json));
  } else {
    const Config config = load_config(arguments.path, arguments.overrides);
    fmt::print("{}", json ? config_json(config) : dump_config(config));
  }
  return 0;
}

int command_info(bool json) {
  fmt::print("{}", info_text(mpi_library_version(), json));
  return 0;
}

int command_export(const std::string& from, const std::string& to) {
  export_run(from, to);
  fmt::print("{}: written from {}\n", to, from);
  return 0;
}

}  // namespace plimsoll
