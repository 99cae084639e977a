#include "launch/recompute_report.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "launch/yaml_reader.hpp"
#include "runtime/core/key_table.hpp"
#include "runtime/core/text.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/offload_costs.hpp"
#include "runtime/plan/recompute_baselines.hpp"

namespace plimsoll {
namespace {

double update_seconds(const Graph& graph, const CostModel& costs) {
  double seconds = 0;
  for (std::size_t n = graph.update_begin; n < graph.nodes.size(); ++n)
    seconds += costs.node_seconds(graph, graph.nodes[n]);
  return seconds;
}

// Seconds of a step for those of a micro-batch.
std::optional<double> times(double micro_batches, const std::optional<RecomputePlan>& plan) {
  return plan ? std::optional(micro_batches * plan->seconds) : std::nullopt;
}

RecomputeReport::Planned compare(const StageChoice& choice, double micro_batches) {
  RecomputeReport::Planned planned;
  const RecomputeStage& stage = choice.graph.stage;
  planned.model_bytes = choice.model_bytes;
  planned.bound_seconds = micro_batches * choice.plan.bound_seconds;
  planned.exact = choice.plan.exact();
  planned.first_layers = times(micro_batches, recompute_first_layers(stage, choice.model_bytes));
  planned.uniform = times(micro_batches, recompute_uniform(stage, choice.model_bytes));
  planned.greedy = times(micro_batches, recompute_greedy(stage, choice.model_bytes));
  return planned;
}

// "0-3 7 9-11"
std::string ranges_text(const std::vector<int>& rising) {
  std::vector<std::string> ranges;
  for (std::size_t i = 0; i < rising.size();) {
    std::size_t end = i + 1;
    while (end < rising.size() && rising[end] == rising[end - 1] + 1) ++end;
    ranges.push_back(end == i + 1 ? fmt::format("{}", rising[i]) : fmt::format("{}-{}", rising[i], rising[end - 1]));
    i = end;
  }
  return join(ranges, " ");
}

// The outputs of a layer's nodes that are made again, without statistics, and without the layer; in forward order.
std::vector<std::string> made_again(const Graph& graph, int layer) {
  const std::string prefix = fmt::format("{}.", layer);
  std::set<std::string> copies;
  std::vector<std::string> names;
  const auto outputs = [&](const Node& node, const auto& visit) {
    const auto slots = op_info(node.op).slots;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      if (slots[s].role == Role::Output && node.value[s] != kNoValue) visit(graph[node.value[s]].name);
    }
  };
  for (const Node& node : graph.nodes) {
    if (node.again && node.layer == layer) outputs(node, [&](const std::string& name) { copies.insert(name); });
  }
  constexpr std::string_view kFirstBlock = ".0";  // stands for all that exist block by block
  for (RecomputableValue v : recomputable_values(graph, layer)) {
    const std::string_view block = v.name.ends_with(kFirstBlock) ? kFirstBlock : "";
    v.name.resize(v.name.size() - block.size());
    if (copies.contains(fmt::format("{}{}.again{}", prefix, v.name, block))) names.push_back(v.name);
  }
  return names;
}

// The values of a layer that go to host memory, without the layer; in the order in which they go.
std::vector<std::string> sent_away(const Graph& graph, int layer) {
  const std::string prefix = fmt::format("{}.", layer);
  std::vector<std::string> names;
  for (const Node& node : graph.nodes) {
    if (node.op != op_id<ToHost> || node.layer != layer) continue;
    const std::string& name = graph[node.value[ToHost::kX]].name;
    names.push_back(name.starts_with(prefix) ? name.substr(prefix.size()) : name);
  }
  return names;
}

// Layers of a role that recompute the same.
struct Group {
  RecomputeMode mode;  // Auto: `again` and `sent` say it
  std::vector<std::string> again, sent;
  std::int64_t rows;
  std::vector<int> layers;
  std::string text() const { return (rows > 1 ? fmt::format("MLP in {} blocks of rows, ", rows) : "") + what(); }
  std::string what() const {
    if (mode != RecomputeMode::Auto) return std::string(to_text(mode));
    const std::string made = again.empty() ? "nothing" : join(again, ", ");
    return sent.empty() ? made : fmt::format("{} and offload {}", made, join(sent, ", "));
  }
};

std::vector<Group> groups_of(const RankRole& role) {
  std::vector<Group> groups;
  const Graph& graph = role.programs.graph("train");
  for (const int layer : layers_of(graph)) {
    const LayerRecompute& wanted = role.options.recompute[static_cast<std::size_t>(layer)];
    Group group{wanted.mode, made_again(graph, layer), sent_away(graph, layer), wanted.rows, {}};
    auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& g) {
      return g.mode == group.mode && g.again == group.again && g.sent == group.sent && g.rows == group.rows;
    });
    if (same == groups.end()) same = groups.insert(groups.end(), std::move(group));
    same->layers.push_back(layer);
  }
  return groups;
}

std::string percent(double part, double whole) { return fmt::format("{:.2f} %", 100 * part / whole); }

std::string planned_text(const RecomputeReport::Planned& planned, const RecomputeReport& report) {
  const auto other = [&](const std::optional<double>& seconds) {
    return seconds ? percent(*seconds, report.step_seconds) : std::string("do not fit");
  };
  const std::string proof = planned.exact ? "the least within the planner's " + format_bytes(planned.model_bytes)
                                          : fmt::format("at least {} within the planner's {}",
                                                        percent(planned.bound_seconds, report.step_seconds),
                                                        format_bytes(planned.model_bytes));
  return fmt::format("  {}; the first k layers in full {}, one set for all layers {}, greedy {}\n", proof,
                     other(planned.first_layers), other(planned.uniform), other(planned.greedy));
}

}  // namespace

std::vector<RecomputeReport> recompute_reports(const std::vector<RankRole>& roles, const CostModel& costs,
                                               const std::optional<RecomputeChoice>& choice) {
  const ProgramOptions& o = roles.front().options;
  if (!o.train || o.recompute.empty()) return {};
  const auto micro_batches = static_cast<double>(o.micro_batches);
  std::vector<RecomputeReport> reports;
  for (const RankRole& role : roles) {
    RecomputeReport& report = reports.emplace_back();
    const Graph& graph = role.programs.graph("train");
    report.step_seconds =
        micro_batches * stage_graph(role.options, costs).micro_batch_seconds + update_seconds(graph, costs);
    report.recompute_seconds =
        micro_batches * (recompute_seconds(graph, costs) + row_split_seconds(role.options, costs));
    report.offload_seconds = micro_batches * offload_seconds(graph, costs, o.host.overlap);
    if (!choice) continue;
    const StageChoice& stage = choice->of_stage(coordinates(role.options.mesh, role.options.rank).pipeline);
    if (!stage.plan.layers.empty()) report.planned = compare(stage, micro_batches);
  }
  return reports;
}

std::string recompute_text(const RankRole& role, const RecomputeReport* report) {
  const Programs& programs = role.programs;
  const ProgramOptions& o = role.options;
  if (!o.train) return "";
  if (o.recompute.empty()) return fmt::format("{}: recompute none\n", role.name);
  // A mode may mean other values in the first layer.
  std::vector<std::pair<std::string, std::vector<int>>> layers_of_text;
  for (const Group& g : groups_of(role)) {
    const auto same = std::find_if(layers_of_text.begin(), layers_of_text.end(),
                                   [text = g.text()](const auto& t) { return t.first == text; });
    std::vector<int>& layers =
        (same != layers_of_text.end() ? *same : layers_of_text.emplace_back(g.text(), std::vector<int>{})).second;
    layers.insert(layers.end(), g.layers.begin(), g.layers.end());
    std::sort(layers.begin(), layers.end());
  }
  std::vector<std::string> texts;
  for (const auto& [text, layers] : layers_of_text)
    texts.push_back(fmt::format("{} in {} layer(s) ({})", text, layers.size(), ranges_text(layers)));
  const auto more = static_cast<double>(programs.recompute_flops_per_micro_batch),
             all = static_cast<double>(programs.rank_flops_per_micro_batch);
  std::string out =
      fmt::format("{}: recompute {}: {:.3g} GFLOP more for a micro-batch of a rank, {:.1f} % of forward and backward",
                  role.name, join(texts, "; "), more / 1e9, 100 * more / all);
  if (has_row_splits(o.recompute)) out += "; row-splits: sums in another order, equal to 1e-6";
  if (report == nullptr) return out + "\n";
  out += fmt::format("; predicted {} of a step", percent(report->recompute_seconds, report->step_seconds));
  if (programs.plan.host_bytes > 0)
    out +=
        fmt::format(", and copies to and from host memory {}", percent(report->offload_seconds, report->step_seconds));
  out += "\n";
  return report->planned ? out + planned_text(*report->planned, *report) : out;
}

nlohmann::json recompute_json(const RankRole& role, const RecomputeReport* report) {
  const Programs& programs = role.programs;
  nlohmann::json json{{"flops_per_micro_batch", programs.recompute_flops_per_micro_batch},
                      {"share_of_flops", static_cast<double>(programs.recompute_flops_per_micro_batch) /
                                             static_cast<double>(programs.rank_flops_per_micro_batch)},
                      {"layers", nlohmann::json::array()}};
  for (const LayerRecompute& layer : role.options.recompute) {
    if (layer.mode == RecomputeMode::Auto) {
      json["layers"].push_back({{"keep", layer.keep}, {"offload", layer.offload}});
    } else if (layer.rows > 1) {
      json["layers"].push_back({{"mode", to_text(layer.mode)}});
    } else {
      json["layers"].push_back(to_text(layer.mode));
    }
    if (layer.rows > 1) json["layers"].back()["rows"] = layer.rows;
  }
  if (has_row_splits(role.options.recompute)) json["sums"] = "in another order, equal to 1e-6";
  if (role.options.recompute.empty()) return json;
  json["yaml"] = recompute_line(role.options.recompute);
  for (const Group& g : groups_of(role)) {
    json["again"].push_back({{"layers", g.layers}, {"values", g.again}});
    if (g.rows > 1) json["again"].back()["rows"] = g.rows;
    if (!g.sent.empty()) json["offloaded"].push_back({{"layers", g.layers}, {"values", g.sent}});
  }
  if (report == nullptr) return json;
  const auto share = [&](const std::optional<double>& seconds) {
    return seconds ? nlohmann::json(*seconds / report->step_seconds) : nlohmann::json();
  };
  json["predicted_share_of_step"] = share(report->recompute_seconds);
  json["predicted_copies_share_of_step"] = share(report->offload_seconds);
  if (!report->planned) return json;
  const RecomputeReport::Planned& p = *report->planned;
  json["planner"] = {{"model_bytes", p.model_bytes},
                     {"exact", p.exact},
                     {"bound_share_of_step", share(p.bound_seconds)},
                     {"first_layers_share_of_step", share(p.first_layers)},
                     {"uniform_share_of_step", share(p.uniform)},
                     {"greedy_share_of_step", share(p.greedy)}};
  return json;
}

std::string recompute_line(const std::vector<LayerRecompute>& layers) {
  MemoryConfig memory;
  memory.recompute = RecomputeMode::None;
  memory.recompute_layers = layers;
  return memory_keys().write(memory).entry("recompute")->value.one_line();
}

std::vector<LayerRecompute> read_recompute_line(const std::string& line, const std::string& file) {
  ConfigErrors errors;
  const ConfigNode node = read_yaml("recompute: " + line, file, errors, true);
  MemoryConfig memory;
  if (errors.empty()) memory_keys().read(memory, node, {"memory", &errors, nullptr});
  require(errors.empty(), ErrorKind::BadData, "{}: what its layers recompute cannot be read: {}", file, errors.text());
  return memory.recompute_layers;
}

}  // namespace plimsoll
