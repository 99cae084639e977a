#include "launch/plan_report.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

const ProgramLayout& largest_program(const MemoryPlan& plan) {
  return *std::max_element(plan.programs.begin(), plan.programs.end(),
                           [](const ProgramLayout& a, const ProgramLayout& b) { return a.step_bytes < b.step_bytes; });
}

std::string peak_text(const MemoryPlan& plan) {
  const ProgramLayout& top = largest_program(plan);
  std::string out = fmt::format("\nlive at the peak: program '{}', {}\n{:>14}  {:<14}{:>5}  {:<44}{}\n", top.name,
                                top.peak_node, "bytes", "class", "layer", "value", "made by");
  const auto row = [&](std::int64_t bytes, MemoryClass memory, int layer, const std::string& name,
                       const std::string& made_by) {
    out += fmt::format("{:>14}  {:<14}{:>5}  {:<44}{}\n", format_count(bytes),
                       kMemoryClassNames[static_cast<std::size_t>(memory)], layer >= 0 ? std::to_string(layer) : "",
                       name, made_by);
  };
  for (const PersistentRegion& r : plan.persistent) row(r.bytes, r.memory, -1, r.name, "lives for the whole run");
  for (const LiveItem& i : top.peak_items) row(i.bytes, i.memory, i.layer, i.name, i.made_by);
  return out;
}

}  // namespace

std::string plan_text(const Programs& programs, const ProgramOptions& options, const PlanContext& context, bool peak) {
  const MemoryPlan& plan = programs.plan;
  std::string out = fmt::format("{} parameters, {} rank(s), micro-batch {} x {} tokens, {}\n",
                                format_count(parameter_count(options.model)), context.ranks, options.micro_batch,
                                options.sequence, dtype_name(options.dtype));
  out += fmt::format("{:<22}{:>16}{:>14}\n", "memory per rank", "bytes", "");
  const auto row = [&](std::string_view name, std::int64_t bytes) {
    out += fmt::format("  {:<20}{:>16}{:>14}\n", name, format_count(bytes), format_bytes(bytes));
  };
  for (std::size_t c = 0; c < plan.class_bytes.size(); ++c) row(kMemoryClassNames[c], plan.class_bytes[c]);
  row("padding", plan.padding_bytes);
  row("arena", plan.total_bytes);
  if (context.outside_bytes > 0) row(fmt::format("outside ({})", context.outside_source), context.outside_bytes);
  row("needed", plan.total_bytes + context.outside_bytes);
  if (context.budget_bytes > 0) {
    row("budget", context.budget_bytes);
    row("margin", context.budget_bytes - plan.total_bytes - context.outside_bytes);
  }
  for (const ProgramLayout& p : plan.programs) {
    out += fmt::format("program {:<10} step region {} (max-live {}, {}), most is live at {}\n", p.name,
                       format_bytes(p.step_bytes), format_bytes(p.max_live_bytes), p.method, p.peak_node);
  }
  return peak ? out + peak_text(plan) : out;
}

nlohmann::json plan_json(const Programs& programs, const ProgramOptions& options, const PlanContext& context) {
  const MemoryPlan& plan = programs.plan;
  nlohmann::json json{{"parameters", parameter_count(options.model)},
                      {"ranks", context.ranks},
                      {"micro_batch", options.micro_batch},
                      {"sequence", options.sequence},
                      {"threads", options.threads},
                      {"bucket_bytes", options.bucket_bytes},
                      {"logits_bytes", options.logits_bytes},
                      {"arena_bytes", plan.total_bytes},
                      {"persistent_bytes", plan.persistent_bytes},
                      {"padding_bytes", plan.padding_bytes},
                      {"outside_arena_bytes", context.outside_bytes},
                      {"outside_source", context.outside_source},
                      {"budget_bytes", context.budget_bytes},
                      {"planned_bytes", plan.total_bytes},  // as in summary.json
                      {"needed_bytes", plan.total_bytes + context.outside_bytes}};
  for (std::size_t c = 0; c < plan.class_bytes.size(); ++c)
    json["class_bytes"][std::string(kMemoryClassNames[c])] = plan.class_bytes[c];
  for (const PersistentRegion& r : plan.persistent) {
    json["persistent"].push_back({{"name", r.name},
                                  {"class", kMemoryClassNames[static_cast<std::size_t>(r.memory)]},
                                  {"offset", r.offset},
                                  {"bytes", r.bytes}});
  }
  for (const ProgramLayout& p : plan.programs) {
    nlohmann::json items = nlohmann::json::array();
    for (const LiveItem& i : p.peak_items) {
      items.push_back({{"name", i.name},
                       {"class", kMemoryClassNames[static_cast<std::size_t>(i.memory)]},
                       {"layer", i.layer},
                       {"bytes", i.bytes},
                       {"made_by", i.made_by}});
    }
    json["programs"][p.name] = {{"step_bytes", p.step_bytes},
                                {"max_live_bytes", p.max_live_bytes},
                                {"offsets_by", p.method},
                                {"peak_node", p.peak_node},
                                {"live_at_peak", items}};
  }
  if (options.train) {
    const double tokens = static_cast<double>(options.micro_batch * options.sequence);
    json["model_flops_per_token"] = static_cast<double>(programs.train_flops_per_micro_batch) / tokens;
  }
  return json;
}

}  // namespace plimsoll
