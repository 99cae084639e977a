#pragma once
// What each verb of the command line does. Results go to stdout; each returns the exit code 0 or throws Error.

#include <optional>
#include <string>
#include <vector>

#include "launch/bootstrap.hpp"
#include "launch/generate.hpp"
#include "runtime/data/prepare.hpp"

namespace plimsoll {

struct ConfigArguments {
  std::string path;
  std::vector<std::string> overrides;  // "a.b=c"
};
struct PrepareArguments {
  PrepareOptions options;
  std::string tokenizer;  // empty: not given
  bool json = false;
};
struct GenerateArguments {
  std::string source, prompt = "\n", tokenizer;
  std::vector<std::string> overrides;
  std::int64_t tokens = 100;
  SamplingOptions sampling;
  bool json = false;
};
struct EvalArguments {
  std::optional<std::int64_t> batches;
  bool json = false;
};
struct PlanArguments {
  int ranks = 1;
  std::optional<int> threads;
  std::string budget;
  std::optional<int> rank;  // whose memory is listed and drawn; none: of the rank that needs most
  std::string cluster;      // a file; empty: comm.cluster
  bool peak = false, verify = false, gantt = false, why = false;
  std::string gantt_svg, svg, out;  // files; empty: none
  // Nobody named `out`: what is there and is no such plan, or that it cannot be written, is a warning.
  bool default_out = false;
};
struct GraphArguments {
  std::string program = "train";
  int ranks = 1, rank = 0;
  bool dot = false;
};
struct ProbeArguments {
  ConfigArguments config;        // without a path: every rank is a replica
  std::string out;               // empty: the standard output
  std::string largest = "auto";  // message
  bool check = false;            // measure again, at other sizes, and compare
};

// `plan`: a file that the run follows; empty: none.
int command_train(const ConfigArguments& arguments, const std::string& plan, const MpiSession& mpi,
                  std::string& run_dir);
int command_eval(const ConfigArguments& arguments, const EvalArguments& eval, const MpiSession& mpi);
int command_probe(const ProbeArguments& arguments, const MpiSession& mpi);
int command_generate(const GenerateArguments& arguments);
int command_prepare(const PrepareArguments& arguments);
int command_plan(const ConfigArguments& arguments, const PlanArguments& plan, bool json);
int command_graph(const ConfigArguments& arguments, const GraphArguments& graph);
int command_config(const ConfigArguments& arguments, bool json);
int command_info(bool json);
int command_export(const std::string& from, const std::string& to);

}  // namespace plimsoll
