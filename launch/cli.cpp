#include "launch/cli.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launch/bootstrap.hpp"
#include "launch/commands.hpp"
#include "launch/handshake.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

constexpr const char* kDefaultPlan = "plan.json";  // of `plan`, in the working directory

struct Arguments {
  ConfigArguments config;
  std::string train_plan;  // a file; empty: none
  PrepareArguments prepare;
  GenerateArguments generate;
  EvalArguments eval;
  PlanArguments plan;
  GraphArguments graph;
  ProbeArguments probe;
  std::string from, to;
  bool json = false;
};

// A finite number in a range that is written in words.
CLI::Validator number_in(double low, double high, const std::string& range) {
  const auto check = [low, high, range](const std::string& text) -> std::string {
    double value = 0;
    const bool good = CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value >= low && value <= high;
    return good ? "" : fmt::format("'{}' is not {}", text, range);
  };
  return CLI::Validator(check, "");
}
CLI::Validator whole_from(std::int64_t least) {
  const auto check = [least](const std::string& text) -> std::string {
    std::int64_t value = 0;
    const bool good = CLI::detail::lexical_cast(text, value) && value >= least;
    return good ? "" : fmt::format("'{}' is not a whole number from {}", text, least);
  };
  return CLI::Validator(check, "");
}
constexpr double kMost = std::numeric_limits<double>::max();

void add_config(CLI::App* app, ConfigArguments& a) {
  app->add_option("CONFIG", a.path, "configuration file (YAML)")->required();
  app->add_option("--set", a.overrides, "override a key: --set memory.budget=2GiB (repeatable)")
      ->allow_extra_args(false);
}

void add_prepare(CLI::App& data, PrepareArguments& a) {
  CLI::App* app = data.add_subcommand("prepare", "turn text files into a token file");
  app->add_option("TEXT", a.options.inputs, "text files; each is one document")->required();
  app->add_option("--out", a.options.out, "prefix of the files to write")->required();
  app->add_option("--tokenizer", a.tokenizer, "byte (default) | char | sentencepiece");
  app->add_option("--like", a.options.like, "use the tokenizer of these data");
  app->add_option("--model", a.options.model, "sentencepiece: use this .model instead of training one");
  app->add_option("--vocabulary", a.options.vocabulary,
                  fmt::format("sentencepiece: number of pieces to train (default {})", kDefaultPieces));
  app->add_option("--model-type", a.options.model_type, "sentencepiece: bpe (default) | unigram");
  app->add_flag("--json", a.json, "report as JSON");
}

void add_generate(CLI::App* app, GenerateArguments& a) {
  app->add_option("SOURCE", a.source, "run directory, configuration file, or Hugging Face folder")->required();
  app->add_option("--set", a.overrides, "override a key of the configuration")->allow_extra_args(false);
  app->add_option("--prompt", a.prompt, "text to continue")->capture_default_str();
  app->add_option("--tokens", a.tokens, "number of tokens to add")->capture_default_str()->check(whole_from(1));
  app->add_option("--temperature", a.sampling.temperature, "0: always the most likely token")
      ->capture_default_str()
      ->check(number_in(0, kMost, "a finite number from 0"));
  app->add_option("--top-k", a.sampling.top_k, "sample among the k most likely; 0: all")
      ->capture_default_str()
      ->check(whole_from(0));
  app->add_option("--top-p", a.sampling.top_p, "sample among the most likely with this total probability")
      ->capture_default_str()
      ->check(number_in(0, 1, "a number from 0 to 1"));
  app->add_option("--seed", a.sampling.seed, "of the draws")->capture_default_str();
  app->add_option("--tokenizer", a.tokenizer, "prefix or folder of the tokenizer, when SOURCE has none");
  app->add_flag("--json", a.json, "report as JSON");
}

void build(CLI::App& app, Arguments& a, std::map<const CLI::App*, std::string>& verbs) {
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("plimsoll ") + PLIMSOLL_VERSION);
  const auto verb = [&](const std::string& name, const std::string& text) {
    CLI::App* sub = app.add_subcommand(name, text);
    verbs[sub] = name;
    return sub;
  };
  CLI::App* train = verb("train", "train a model (under mpirun or srun for several ranks)");
  train->footer("PLIMSOLL_PROGRESS=auto|bar|plain: a bar on a terminal, plain lines elsewhere, or always one of them.");
  add_config(train, a.config);
  train->add_option("--plan", a.train_plan, "follow this plan of `plan --out` or of another run, or stop before step 1")
      ->type_name("FILE");
  CLI::App* eval = verb("eval", "loss over the whole validation split");
  add_config(eval, a.config);
  eval->add_option("--batches", a.eval.batches, "only this many global batches of the split")->check(whole_from(1));
  eval->add_flag("--json", a.eval.json, "report as JSON");
  add_generate(verb("generate", "continue a text"), a.generate);
  CLI::App* data = verb("data", "token files");
  data->require_subcommand(1);
  add_prepare(*data, a.prepare);
  CLI::App* plan = verb("plan", "the memory plan of a configuration; trains nothing, needs no MPI");
  add_config(plan, a.config);
  plan->add_option("--ranks", a.plan.ranks, "plan for this many ranks")->capture_default_str()->check(whole_from(1));
  plan->add_option("--threads", a.plan.threads, "threads per rank; default: run.threads, or cores / ranks")
      ->check(whole_from(1));
  plan->add_option("--budget", a.plan.budget, "bytes per rank, instead of memory.budget");
  plan->add_option("--cluster", a.plan.cluster,
                   "devices and links to plan for (configs/clusters), instead of comm.cluster; predicts the step time")
      ->type_name("FILE");
  plan->add_flag("--why", a.plan.why,
                 "which constraints hold the plan back and what each costs, by plans without them; why layouts fell");
  plan->add_flag("--peak", a.plan.peak, "list what is live at the peak");
  plan->add_option("--rank", a.plan.rank, "--peak and --svg of this rank; default: of the one that needs most")
      ->check(whole_from(0));
  plan->add_flag("--gantt", a.plan.gantt, "draw the schedule of a pipeline, with the predicted times");
  plan->add_option("--gantt-svg", a.plan.gantt_svg, "write that chart to this file")->type_name("FILE");
  plan->add_option(
          "--svg", a.plan.svg,
          "draw a step into this file: what the stages do when, and memory against the budget, of --rank or of the "
          "rank that needs most")
      ->type_name("FILE");
  plan->add_option("--out", a.plan.out, "write the plan into this file, for train --plan; none: into none")
      ->type_name("FILE")
      ->default_str(kDefaultPlan);
  plan->add_flag("--verify", a.plan.verify, "replay the plan with the independent checker");
  plan->add_flag("--json", a.json, "report as JSON");
  CLI::App* probe = verb("probe", "measure links and rates under mpirun or srun, for plan --cluster and comm.cluster");
  probe->add_option("CONFIG", a.probe.config.path,
                    "measure the mesh of this configuration; default: all ranks as data");
  probe->add_option("--set", a.probe.config.overrides, "override a key of the configuration")->allow_extra_args(false);
  probe->add_option("--out", a.probe.out, "cluster file to write; default: to the standard output")->type_name("FILE");
  probe
      ->add_option("--largest", a.probe.largest,
                   "largest message; sizes double from 1 KiB; auto: to 256 MiB, on a slow link less")
      ->capture_default_str();
  probe->add_flag("--check", a.probe.check, "measure sizes between again and say how far off the table is")
      ->needs("--out");
  CLI::App* graph = verb("graph", "the step program of a configuration");
  add_config(graph, a.config);
  graph->add_option("--program", a.graph.program, "train | evaluate | logits | prefill | decode")
      ->capture_default_str();
  graph->add_option("--ranks", a.graph.ranks, "of a run with this many ranks")
      ->capture_default_str()
      ->check(whole_from(1));
  graph->add_option("--rank", a.graph.rank, "the program of this rank")->capture_default_str()->check(whole_from(0));
  graph->add_flag("--dot", a.graph.dot, "as a Graphviz digraph");
  CLI::App* config = verb("config", "every key with type, default, unit and meaning; or a file as it resolves");
  config->add_option("CONFIG", a.config.path, "configuration file to resolve");
  config->add_option("--set", a.config.overrides, "override a key")->allow_extra_args(false);
  config->add_flag("--json", a.json, "report as JSON");
  verb("info", "build, devices, libraries")->add_flag("--json", a.json, "report as JSON");
  CLI::App* out = verb("export", "write the weights of a run as a Hugging Face folder");
  out->add_option("FROM", a.from, "run directory or checkpoint folder")->required();
  out->add_option("TO", a.to, "folder to make")->required();
}

// CLI11 says of a word that is no verb only that a verb is missing.
void require_known_verb(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return;
  const auto nearest = nearest_name(argv[1], names);
  const std::string hint = nearest ? fmt::format("did you mean '{}'?", *nearest) : "verbs: " + join(names, ", ");
  throw CLI::ValidationError(fmt::format("'{}'", argv[1]), "is no verb of plimsoll; " + hint);
}

// Where all ranks work, what the configuration says is compared later, key by key.
bool compared_with_configuration(const CLI::App& verb, const CLI::Option& option) {
  const std::vector<std::string> names{"train", "eval", "probe"};
  const bool ranks_work = std::find(names.begin(), names.end(), verb.get_name()) != names.end();
  return ranks_work && (option.check_name("CONFIG") || option.check_name("--set"));
}

// On one line, without the characters that end an item.
std::string quoted(const std::vector<std::string>& words) {
  return nlohmann::json(words.size() == 1 ? nlohmann::json(words[0]) : nlohmann::json(words))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The verb and its arguments that change what is computed: not where a report goes, or in which form.
Agreement command_agreement(const CLI::App& app) {
  Agreement a{"the command", "", {{"command", ""}}};
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    a.items[0].second += (a.items[0].second.empty() ? "" : " ") + at->get_name();
    for (const CLI::Option* option : at->get_options()) {
      const bool reports = option->check_name("--json") || (at->get_name() == "probe" && option->check_name("--out"));
      if (reports || option->check_name("--help") || compared_with_configuration(*at, *option)) continue;
      const std::string otherwise = option->get_default_str();
      const std::vector<std::string> words = option->count() > 0 ? option->results() : std::vector{otherwise};
      const bool missing = option->count() == 0 && otherwise.empty();
      a.items.emplace_back(option->get_name(), missing ? "not given" : quoted(words));
    }
  }
  return a;
}

void agree_about_command(const MpiSession& mpi, const Agreement& command) {
  if (mpi.size() > 1) agree(mpi.world("control"), command);
}

}  // namespace

int run_command(int argc, char** argv, MpiSession& mpi, CommandContext& context) {
  CLI::App app{"Plimsoll: trains transformers under MPI inside a memory budget", "plimsoll"};
  Arguments a;
  std::map<const CLI::App*, std::string> verbs;
  build(app, a, verbs);
  try {
    require_known_verb(app, argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const std::string wrong = error.get_exit_code() == 0 ? "a question" : "wrong: " + quoted({error.what()});
    agree_about_command(mpi, {"the command", "", {{"command", wrong}}});
    // All ranks have the same command line: one of them answers.
    std::ostringstream nowhere;
    const int code = mpi.rank() == 0 ? app.exit(error) : app.exit(error, nowhere, nowhere);
    return code == 0 ? 0 : static_cast<int>(ErrorKind::Usage);
  }
  agree_about_command(mpi, command_agreement(app));
  const std::string verb = verbs.at(app.get_subcommands().front());
  if (verb == "train") return command_train(a.config, a.train_plan, mpi, context.run_dir);
  if (verb == "eval") return command_eval(a.config, a.eval, mpi);
  if (verb == "probe") return command_probe(a.probe, mpi);
  if (mpi.rank() != 0) return 0;  // the others are work for one process
  if (verb == "generate") return command_generate(a.generate);
  if (verb == "data") return command_prepare(a.prepare);
  if (verb == "plan") {
    a.plan.default_out = a.plan.out.empty();
    a.plan.out = a.plan.default_out ? kDefaultPlan : a.plan.out == "none" ? "" : a.plan.out;
    return command_plan(a.config, a.plan, a.json);
  }
  if (verb == "graph") return command_graph(a.config, a.graph);
  if (verb == "config") return command_config(a.config, a.json);
  if (verb == "info") return command_info(a.json);
  return command_export(a.from, a.to);
}

std::string command_line_help() {
  CLI::App app{"Plimsoll: trains transformers under MPI inside a memory budget", "plimsoll"};
  Arguments a;
  std::map<const CLI::App*, std::string> verbs;
  build(app, a, verbs);
  std::string text = app.help();
  const std::function<void(const CLI::App&, const std::string&)> add_verbs = [&](const CLI::App& parent,
                                                                                 const std::string& prefix) {
    for (const CLI::App* sub : parent.get_subcommands([](const CLI::App*) { return true; })) {
      const std::string name = prefix + " " + sub->get_name();
      text += "\n" + sub->help(prefix);
      add_verbs(*sub, name);
    }
  };
  add_verbs(app, "plimsoll");
  return text;
}

}  // namespace plimsoll
