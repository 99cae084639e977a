#include "launch/plan_report.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "launch/layout_choice.hpp"
#include "launch/process.hpp"
#include "launch/shard_choice.hpp"
#include "launch/state_choice.hpp"
#include "runtime/core/text.hpp"
#include "runtime/ops/attention_device.hpp"

namespace plimsoll {
namespace {

std::string ranks_text(const RankRole& role) {
  return fmt::format("rank{} {}", role.ranks.size() > 1 ? "s" : "", rank_ranges(role.ranks));
}

std::string peak_text(const RankRole& role) {
  const MemoryPlan& plan = role.programs.plan;
  const ProgramLayout& top = largest_program(plan);
  std::string out =
      fmt::format("\nlive at the peak of {}: program '{}', {}\n{:>14}  {:<14}{:>5}  {:<44}{}\n", ranks_text(role),
                  top.name, top.peak_node, "bytes", "class", "layer", "value", "made by");
  const auto row = [&](std::int64_t bytes, MemoryClass memory, int layer, const std::string& name,
                       const std::string& made_by) {
    out += fmt::format("{:>14}  {:<14}{:>5}  {:<44}{}\n", format_count(bytes),
                       kMemoryClassNames[static_cast<std::size_t>(memory)], layer >= 0 ? std::to_string(layer) : "",
                       name, made_by);
  };
  for (const PersistentRegion& r : plan.persistent) row(r.bytes, r.memory, -1, r.name, "lives for the whole run");
  for (const LiveItem& i : top.peak_items) row(i.bytes, i.memory, i.layer, i.name, i.made_by);
  for (const LiveItem& i : top.host_items) row(i.bytes, i.memory, i.layer, i.name, i.made_by);
  return out;
}

// The groups of an axis that have several ranks, each once, in the order of their first ranks.
std::vector<std::vector<int>> groups_of(const Mesh& mesh, std::string_view axis) {
  std::vector<std::vector<int>> groups;
  std::vector<bool> seen(static_cast<std::size_t>(mesh.ranks()), false);
  for (int r = 0; r < mesh.ranks(); ++r) {
    if (seen[static_cast<std::size_t>(r)]) continue;
    std::vector<int> group = axis_group(mesh, r, axis);
    for (const int member : group) seen[static_cast<std::size_t>(member)] = true;
    if (group.size() > 1) groups.push_back(std::move(group));
  }
  return groups;
}

// "[0 4 8 12]", "[0 4 8 … 9996] stride 4, 2500 ranks". Ranks of a group are equally far apart.
std::string group_text(const std::vector<int>& group) {
  constexpr std::size_t kMostRanks = 16;
  if (group.size() <= kMostRanks) return fmt::format("[{}]", fmt::join(group, " "));
  return fmt::format("[{} {} {} … {}] stride {}, {} ranks", group[0], group[1], group[2], group.back(),
                     group[1] - group[0], group.size());
}

bool divides(const Mesh& mesh, std::string_view axis) { return axis_group(mesh, 0, axis).size() > 1; }

// The pieces of a pipeline in model order, and the activation slots of its stages.
std::string pipeline_text(const Programs& programs, const ProgramOptions& o) {
  const Schedule& schedule = *programs.schedule;
  std::string out =
      fmt::format("  pipeline of {} pieces, {} micro-batches:", programs.cuts.size(), schedule.micro_batches);
  for (std::size_t i = 0; i < programs.cuts.size(); ++i) {
    const std::int64_t end = i + 1 < programs.cuts.size() ? programs.cuts[i + 1] : o.model.layers;
    out += fmt::format(" stage {} layers {}-{};", i % static_cast<std::size_t>(schedule.stages), programs.cuts[i],
                       end - 1);
  }
  out += " activation slots per stage";
  for (const std::vector<int>& slots : schedule.slots) out += fmt::format(" {}", fmt::join(slots, "+"));
  return out + "\n";
}

// The micro-batches of replicas that have other numbers of them.
std::string shares_text(const ProgramOptions& o) {
  constexpr std::size_t kMostShares = 16;
  if (o.shares.empty()) return "";
  const auto shown = std::span(o.shares).first(std::min(o.shares.size(), kMostShares));
  return fmt::format("  micro-batches of the replicas: {}{}\n", fmt::join(shown, " "),
                     o.shares.size() > kMostShares ? " …" : "");
}

// Mesh and groups.
std::string mesh_text(const Programs& programs, const ProgramOptions& o) {
  constexpr std::size_t kMostGroups = 8;
  std::string out = fmt::format("mesh: data {} x pipeline {} x tensor {}, zero {}", o.mesh.data, o.mesh.pipeline,
                                o.mesh.tensor, o.zero);
  if (o.zero > 0 && o.mesh.shards < o.mesh.data) out += fmt::format(" over {} of the replicas", o.mesh.shards);
  if (uneven_state(o)) out += fmt::format(", state in parts of {}", state_shares_text(o.state_shares));
  if (o.sequence_parallel) out += ", sequence parallel";
  if (o.tensor_chunks > 1) out += fmt::format(", split linears in {} chunks", o.tensor_chunks);
  out += "\n";
  for (const std::string_view axis : kMeshAxes) {
    if (axis == "world" || !divides(o.mesh, axis)) continue;
    const auto groups = groups_of(o.mesh, axis);
    std::vector<std::string> texts;
    for (std::size_t g = 0; g < std::min(groups.size(), kMostGroups); ++g) texts.push_back(group_text(groups[g]));
    out += fmt::format("  {:<15}{} group(s): {}{}\n", axis, groups.size(),
                       join(texts, texts.front().ends_with("]") ? " " : "; "), groups.size() > kMostGroups ? " …" : "");
  }
  out += shares_text(o);
  if (programs.schedule != nullptr) out += pipeline_text(programs, o);
  return out;
}

bool is_flat(const PersistentRegion& r) {
  return r.name == "parameters" || r.name == "gradients" || r.name.starts_with("optimizer.");
}

// What each rank of a role has of the model.
std::string holdings_text(const RankRole& role) {
  std::vector<std::string> holds;
  for (const PersistentRegion& r : role.programs.plan.persistent) {
    if (!is_flat(r)) continue;
    const std::int64_t elements = r.bytes / dtype_bytes(role.programs.dtype_of(r.name));
    holds.push_back(fmt::format("{} {}", format_count(elements), r.name));
  }
  return fmt::format("  {} ({}): each holds elements of {}\n", role.name, ranks_text(role), join(holds, ", "));
}

// Which gradients are summed at once, and what that is predicted to take; empty where none are.
std::string buckets_text(const RankRole& role) {
  if (!role.programs.buckets) return "";
  const GradientBuckets& buckets = *role.programs.buckets;
  const auto [least, most] = std::minmax_element(buckets.bytes.begin(), buckets.bytes.end());
  std::string out = fmt::format("{}: gradients in {} bucket(s) of {} to {}", role.name, buckets.bytes.size(),
                                format_bytes(*least), format_bytes(*most));
  if (buckets.node_ranks > 1) out += fmt::format(", inside nodes of {} replicas first", buckets.node_ranks);
  if (!buckets.chosen) return out + "\n";
  const auto beside = [&](const Buckets& other) {
    return fmt::format("{:.3g} ms ({:+.3g})", other.exposed_s * 1e3, (other.end_s - buckets.chosen->end_s) * 1e3);
  };
  out += fmt::format(", predicted to keep a {} waiting for {:.3g} ms; buckets of {}: {}, one bucket: {}",
                     buckets.each_micro_batch ? "micro-batch" : "step", buckets.chosen->exposed_s * 1e3,
                     format_bytes(kFixedBucketBytes), beside(buckets.against->fixed), beside(buckets.against->one));
  if (buckets.apart) out += fmt::format(", each unit by itself: {}", beside(*buckets.apart));
  if (buckets.flat) out += fmt::format(", over all ranks at once: {}", beside(*buckets.flat));
  return out + "\n";
}

// Whose links say how much is sent at once; empty where nothing is sized.
std::string links_text(const RankRole& role) {
  const bool sized = role.programs.buckets || role.programs.gathers || role.options.links != LinkSource::None;
  if (role.options.mesh.ranks() == 1 || !sized) return "";
  return fmt::format("messages are sized {}\n", link_source_text(role.options.links));
}

// How far ahead ZeRO-3 gathers, what together, and what that is predicted to gain; empty where nothing is gathered.
std::string gathers_text(const RankRole& role) {
  if (!role.programs.gathers) return "";
  const GatherAhead& gathers = *role.programs.gathers;
  std::string out = fmt::format("{}: parameters gathered {} use(s) ahead", role.name, gathers.distance);
  if (gathers.gathers < gathers.uses)
    out += fmt::format(", those of {} uses in {} gathers of at most {}", gathers.uses, gathers.gathers,
                       format_bytes(gathers.most_bytes));
  if (!gathers.chosen) return out + "\n";
  const auto beside = [&](const Prefetch& other) {
    return fmt::format("{:.3g} ms ({:+.3g})", other.exposed_s * 1e3, (other.end_s - gathers.chosen->end_s) * 1e3);
  };
  out += fmt::format(
      ", predicted to keep a micro-batch waiting for {:.3g} ms; not ahead: {}, 1 ahead: {}, best ({} ahead): {}",
      gathers.chosen->exposed_s * 1e3, beside(gathers.against->none), beside(*gathers.usual),
      gathers.against->best.distance, beside(gathers.against->best));
  if (gathers.gathers < gathers.uses) out += fmt::format(", each unit by itself: {}", beside(*gathers.apart));
  return out + "\n";
}

nlohmann::json gathers_json(const GatherAhead& gathers) {
  nlohmann::json json{{"distance", gathers.distance},
                      {"most_bytes", gathers.most_bytes},
                      {"gathers", gathers.gathers},
                      {"ends", gathers.ends},
                      {"uses", gathers.uses}};
  if (!gathers.chosen) return json;
  json["exposed_ms"] = gathers.chosen->exposed_s * 1e3;
  for (const auto& [name, other] : {std::pair<const char*, const Prefetch*>{"none", &gathers.against->none},
                                    {"usual", &*gathers.usual},
                                    {"apart", &*gathers.apart},
                                    {"best", &gathers.against->best}}) {
    json[name] = {{"distance", other->distance},
                  {"exposed_ms", other->exposed_s * 1e3},
                  {"gain_ms", (other->end_s - gathers.chosen->end_s) * 1e3}};
  }
  return json;
}

// What chunks of split linears are predicted to save; empty where they are whole.
std::string chunks_text(const RankRole& role) {
  if (!role.programs.chunk_times) return "";
  const ChunkTimes& times = *role.programs.chunk_times;
  return fmt::format(
      "{}: split linears in {} chunks, predicted {:.4g} ms for forward and backward of a micro-batch; whole: {:.4g} ms "
      "({:+.3g})\n",
      role.name, role.options.tensor_chunks, times.micro_batch_s * 1e3, times.whole_s * 1e3,
      (times.whole_s - times.micro_batch_s) * 1e3);
}

nlohmann::json chunks_json(const RankRole& role) {
  const ChunkTimes& times = *role.programs.chunk_times;
  return {{"chunks", role.options.tensor_chunks},
          {"micro_batch_ms", times.micro_batch_s * 1e3},
          {"whole_ms", times.whole_s * 1e3},
          {"gain_ms", (times.whole_s - times.micro_batch_s) * 1e3}};
}

// Of what a stage of a pipeline sends to a neighbour; 0 where there are none.
std::int64_t message_bytes(const RankRole& role) {
  if (role.options.mesh.pipeline == 1 || !role.options.train) return 0;
  const Graph& graph = role.programs.graph("train");
  for (const PieceEnds& ends : graph.pieces) {
    for (const ValueId v : {ends.output, ends.input}) {
      if (v != kNoValue) return graph[v].spec.bytes();
    }
  }
  return 0;
}

std::string messages_text(const ProgramOptions& o, std::int64_t bytes) {
  std::string out = fmt::format("messages between stages: {}, ", format_bytes(bytes));
  out += o.pipeline_chunks > 1 ? fmt::format("outputs in {} parts", o.pipeline_chunks) : "each in one piece";
  if (!o.pipeline_choice) return out + "\n";
  return out + fmt::format(", predicted {:.4g} ms for a step; whole: {:.4g} ms ({:+.3g})\n",
                           o.pipeline_choice->seconds * 1e3, o.pipeline_choice->whole_s * 1e3,
                           o.pipeline_choice->gain_s() * 1e3);
}

nlohmann::json messages_json(const ProgramOptions& o, std::int64_t bytes) {
  nlohmann::json json{{"bytes", bytes}, {"pieces", o.pipeline_chunks}};
  if (o.pipeline_choice) {
    json["step_ms"] = o.pipeline_choice->seconds * 1e3;
    json["gain_ms"] = o.pipeline_choice->gain_s() * 1e3;
  }
  return json;
}

nlohmann::json buckets_json(const GradientBuckets& buckets) {
  nlohmann::json json{{"bytes", buckets.bytes}, {"node_ranks", buckets.node_ranks}};
  if (!buckets.chosen) return json;
  if (buckets.flat)
    json["flat"] = {{"buckets", buckets.flat->ends.size()},
                    {"exposed_ms", buckets.flat->exposed_s * 1e3},
                    {"gain_ms", (buckets.flat->end_s - buckets.chosen->end_s) * 1e3}};
  if (buckets.apart)
    json["apart"] = {{"buckets", buckets.apart->ends.size()},
                     {"exposed_ms", buckets.apart->exposed_s * 1e3},
                     {"gain_ms", (buckets.apart->end_s - buckets.chosen->end_s) * 1e3}};
  json["times_of"] = buckets.each_micro_batch ? "micro_batch" : "step";
  json["exposed_ms"] = buckets.chosen->exposed_s * 1e3;
  for (const auto& [name, other] : {std::pair<const char*, const Buckets*>{"best", &buckets.against->best},
                                    {"fixed", &buckets.against->fixed},
                                    {"one", &buckets.against->one}}) {
    json[name] = {{"buckets", other->ends.size()},
                  {"exposed_ms", other->exposed_s * 1e3},
                  {"gain_ms", (other->end_s - buckets.chosen->end_s) * 1e3}};
  }
  return json;
}

// Of what lies outside of the arena, what no process was found to have.
std::int64_t allowance_of(const PlanContext& context, const ProgramOptions& options) {
  const bool measured = context.outside_source == "measured" || context.outside_source == "last run";
  return measured ? std::min(context.outside_bytes, allowance_bytes(options.threads == kDeviceThreads)) : 0;
}

// Bytes by class, a column for each role, a few at a time.
std::string memory_text(std::span<const RankRole> roles, const PlanContext& context) {
  std::string out = fmt::format("{:<22}", "memory per rank");
  std::size_t width = 16;
  for (const RankRole& role : roles) width = std::max(width, role.name.size() + 2);
  for (const RankRole& role : roles) out += fmt::format("{:>{}}", roles.size() == 1 ? "bytes" : role.name, width);
  out += "\n";
  const auto role_row = [&](std::string_view name, const auto& bytes_of) {
    out += fmt::format("  {:<20}", name);
    for (const RankRole& role : roles) out += fmt::format("{:>{}}", format_count(bytes_of(role)), width);
    if (roles.size() == 1) out += fmt::format("{:>14}", format_bytes(bytes_of(roles.front())));
    out += "\n";
  };
  const auto row = [&](std::string_view name, const auto& bytes_of) {
    role_row(name, [&](const RankRole& role) { return bytes_of(role.programs.plan); });
  };
  constexpr auto kOffloaded = static_cast<std::size_t>(MemoryClass::Offloaded);
  for (std::size_t c = 0; c < kMemoryClassNames.size(); ++c) {
    if (c != kOffloaded) row(kMemoryClassNames[c], [c](const MemoryPlan& plan) { return plan.class_bytes[c]; });
  }
  row("padding", [](const MemoryPlan& plan) { return plan.padding_bytes; });
  row("arena", [](const MemoryPlan& plan) { return plan.total_bytes; });
  const std::int64_t outside = context.outside_bytes;
  const std::int64_t allowance = allowance_of(context, roles.front().options);
  if (outside > 0)
    row(fmt::format("outside ({})", context.outside_source), [&](const MemoryPlan&) { return outside - allowance; });
  if (allowance > 0) row("allowed to libraries", [&](const MemoryPlan&) { return allowance; });
  row("needed", [outside](const MemoryPlan& plan) { return plan.total_bytes + outside; });
  if (context.budget_bytes.least() > 0) {
    const auto budget = [&](const RankRole& role) { return context.budget_bytes.least_of(role.ranks); };
    role_row("budget", budget);
    role_row("margin", [&](const RankRole& role) { return budget(role) - role.programs.plan.total_bytes - outside; });
  }
  const bool offloads =
      std::any_of(roles.begin(), roles.end(), [](const RankRole& r) { return r.programs.plan.host_bytes > 0; });
  if (!offloads) return out;
  row("offloaded", [](const MemoryPlan& plan) { return plan.class_bytes[kOffloaded]; });
  row("host arena", [](const MemoryPlan& plan) { return plan.host_bytes; });
  if (const auto host = context.host_budget_bytes) {
    row("host budget", [host](const MemoryPlan&) { return *host; });
    row("host margin", [host](const MemoryPlan& plan) { return *host - plan.host_bytes; });
  }
  return out;
}

nlohmann::json mesh_json(const ProgramOptions& o) {
  nlohmann::json json{
      {"data", o.mesh.data},    {"pipeline", o.mesh.pipeline},     {"tensor", o.mesh.tensor},         {"zero", o.zero},
      {"shard", o.mesh.shards}, {"sequence", o.sequence_parallel}, {"tensor_chunks", o.tensor_chunks}};
  for (const std::string_view axis : kMeshAxes) {
    if (axis != "world" && divides(o.mesh, axis)) json["groups"][std::string(axis)] = groups_of(o.mesh, axis);
  }
  return json;
}

nlohmann::json program_json(const ProgramLayout& p) {
  nlohmann::json items = nlohmann::json::array();
  for (const LiveItem& i : p.peak_items) {
    items.push_back({{"name", i.name},
                     {"class", kMemoryClassNames[static_cast<std::size_t>(i.memory)]},
                     {"layer", i.layer},
                     {"bytes", i.bytes},
                     {"made_by", i.made_by}});
  }
  return {{"step_bytes", p.step_bytes},
          {"max_live_bytes", p.max_live_bytes},
          {"offsets_by", p.method},
          {"peak_node", p.peak_node},
          {"live_at_peak", items}};
}

const RecomputeReport* report_of(const std::vector<RankRole>& roles, const RankRole& role, const PlanContext& context) {
  const auto at = static_cast<std::size_t>(&role - roles.data());
  return at < context.recompute.size() ? &context.recompute[at] : nullptr;
}

nlohmann::json role_json(const RankRole& role, const PlanContext& context, const RecomputeReport* report) {
  const MemoryPlan& plan = role.programs.plan;
  nlohmann::json json{{"role", role.name},
                      {"arena_bytes", plan.total_bytes},
                      {"persistent_bytes", plan.persistent_bytes},
                      {"padding_bytes", plan.padding_bytes},
                      {"host_arena_bytes", plan.host_bytes},
                      {"host_padding_bytes", plan.host_padding_bytes},
                      {"planned_bytes", plan.total_bytes},  // as in summary.json
                      {"needed_bytes", plan.total_bytes + context.outside_bytes},
                      {"budget_bytes", context.budget_bytes.least_of(role.ranks)}};
  for (std::size_t c = 0; c < plan.class_bytes.size(); ++c)
    json["class_bytes"][std::string(kMemoryClassNames[c])] = plan.class_bytes[c];
  for (const PersistentRegion& r : plan.persistent) {
    json["persistent"].push_back({{"name", r.name},
                                  {"class", kMemoryClassNames[static_cast<std::size_t>(r.memory)]},
                                  {"offset", r.offset},
                                  {"bytes", r.bytes}});
  }
  for (const ProgramLayout& p : plan.programs) json["programs"][p.name] = program_json(p);
  if (role.options.train) json["recompute"] = recompute_json(role, report);
  if (role.programs.chunk_times) json["split_linears"] = chunks_json(role);
  if (role.programs.gathers) json["gathers"] = gathers_json(*role.programs.gathers);
  if (role.programs.buckets) json["buckets"] = buckets_json(*role.programs.buckets);
  return json;
}

}  // namespace

const ProgramLayout& largest_program(const MemoryPlan& plan) {
  return *std::max_element(plan.programs.begin(), plan.programs.end(),
                           [](const ProgramLayout& a, const ProgramLayout& b) { return a.step_bytes < b.step_bytes; });
}

std::string link_source_text(LinkSource links) {
  switch (links) {
    case LinkSource::Cluster: return "by the links of comm.cluster";
    case LinkSource::Profile: return "by the links that the kernel profile measured";
    case LinkSource::None: break;
  }
  return "as usual: neither comm.cluster nor a kernel profile says what links are like";
}

std::string plan_text(const std::vector<RankRole>& roles, const PlanContext& context, const RankRole* peak) {
  constexpr std::size_t kMostColumns = 6;
  const RankRole &first = roles.front(), &largest = largest_role(roles);
  const ProgramOptions& o = first.options;
  std::string out = fmt::format("{} parameters, {} rank(s), micro-batch {} x {} tokens, {}{}\n",
                                format_count(parameter_count(o.model)), context.ranks, o.micro_batch, o.sequence,
                                dtype_name(o.dtype), o.fp8 ? ", linears in fp8" : "");
  if (o.mesh.ranks() > 1) {
    out += mesh_text(first.programs, o);
    for (const RankRole& role : roles) out += holdings_text(role);
  }
  for (const RankRole& role : roles)
    out += recompute_text(role, report_of(roles, role, context)) + chunks_text(role) + buckets_text(role) +
           gathers_text(role);
  out += links_text(first) + shard_choice_text(o);
  if (const std::int64_t bytes = message_bytes(first); bytes > 0) out += messages_text(o, bytes);
  for (std::size_t at = 0; at < roles.size(); at += kMostColumns)
    out += memory_text(std::span(roles).subspan(at, std::min(kMostColumns, roles.size() - at)), context);
  if (roles.size() > 1) out += fmt::format("{} ({}) needs most\n", largest.name, ranks_text(largest));
  for (const ProgramLayout& p : largest.programs.plan.programs) {
    out += fmt::format("program {:<10} step region {} (max-live {}, {}), most is live at {}\n", p.name,
                       format_bytes(p.step_bytes), format_bytes(std::min(p.max_live_bytes, p.step_bytes)), p.method,
                       p.peak_node);
  }
  return peak != nullptr ? out + peak_text(*peak) : out;
}

nlohmann::json plan_json(const std::vector<RankRole>& roles, const PlanContext& context) {
  const RankRole& largest = largest_role(roles);
  const ProgramOptions& o = largest.options;
  nlohmann::json json{{"parameters", parameter_count(o.model)},
                      {"ranks", context.ranks},
                      {"mesh", mesh_json(o)},
                      {"micro_batch", o.micro_batch},
                      {"sequence", o.sequence},
                      {"threads", o.threads},
                      {"logits_bytes", o.logits_bytes},
                      {"outside_arena_bytes", context.outside_bytes},
                      {"outside_source", context.outside_source},
                      {"outside_allowance_bytes", allowance_of(context, o)}};
  // Nothing of other plans depends on it.
  if (o.threads == kDeviceThreads && dtype_bytes(o.dtype) == 2 && names_fused_heads(o.fused_heads, o.model.head_dim))
    json["fused_heads"] = {{"forward", o.fused_heads.forward}, {"backward", o.fused_heads.backward}};
  if (!o.shares.empty()) json["shares"] = o.shares;
  if (!o.state_shares.empty()) json["state_shares"] = o.state_shares;
  if (o.train) json["links"] = std::array{"none", "cluster", "profile"}[static_cast<std::size_t>(o.links)];
  if (o.shard_choice) json["shard_choice"] = shard_choice_json(*o.shard_choice);
  if (const std::int64_t bytes = message_bytes(largest); bytes > 0) json["stage_message"] = messages_json(o, bytes);
  if (context.host_budget_bytes) json["host_budget_bytes"] = *context.host_budget_bytes;
  json.update(role_json(largest, context, report_of(roles, largest, context)));
  for (const RankRole& role : roles) {
    json["roles"].push_back(role_json(role, context, report_of(roles, role, context)));
    json["roles"].back()["ranks"] = role.ranks;
  }
  if (o.train) {
    const double tokens = static_cast<double>(o.micro_batch * o.sequence);
    json["model_flops_per_token"] = static_cast<double>(largest.programs.train_flops_per_micro_batch) / tokens;
  }
  return json;
}

nlohmann::json whole_plan_json(const Config& config, const nlohmann::json& asked, const std::vector<RankRole>& roles,
                               const PlanContext& context) {
  nlohmann::json json = plan_json(roles, context);
  json["asked"] = asked;
  json["parallel"] = parallel_line(config.parallel);
  if (!config.comm.cluster.empty()) json["cluster"] = std::filesystem::absolute(config.comm.cluster).string();
  return json;
}

}  // namespace plimsoll
