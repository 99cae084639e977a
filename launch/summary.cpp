#include "launch/summary.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "comm/group.hpp"
#include "launch/progress.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

nlohmann::ordered_json times_json(const RankTimes& t) {
  nlohmann::ordered_json json{{"forward", t.forward_s * 1e3},
                              {"backward", t.backward_s * 1e3},
                              {"recompute", nullptr},
                              {"update", t.update_s * 1e3},
                              {"collectives", nlohmann::ordered_json::object()}};
  if (t.recompute_s) json["recompute"] = *t.recompute_s * 1e3;
  for (std::size_t a = 0; a < kMeshAxes.size(); ++a) {
    if (t.collective_s[a] > 0) json["collectives"][std::string(kMeshAxes[a])] = t.collective_s[a] * 1e3;
  }
  return json;
}

nlohmann::ordered_json rank_json(const RankSummary& r, std::int64_t steps) {
  nlohmann::ordered_json json{{"rank", r.rank},
                              {"budget_bytes", r.budget_bytes},
                              {"planned_bytes", r.planned_bytes},
                              {"arena_high_water_bytes", r.arena_high_water_bytes},
                              {"outside_arena_bytes", r.outside_arena_bytes},
                              {"peak_process_bytes", r.peak_process_bytes},
                              {"allocations_after_first_step", r.allocations_after_first_step},
                              {"collective_bytes", nlohmann::ordered_json::object()},
                              {"collective_bytes_per_step", nlohmann::ordered_json::object()},
                              {"padding_bytes", r.padding_bytes},
                              {"host_budget_bytes", r.host_budget_bytes},
                              {"host_planned_bytes", r.host_planned_bytes},
                              {"host_high_water_bytes", r.host_high_water_bytes}};
  for (std::size_t a = 0; a < kMeshAxes.size(); ++a) {
    const std::string axis(kMeshAxes[a]);
    json["collective_bytes"][axis] = r.collective_bytes[a];
    json["collective_bytes_per_step"][axis] = r.collective_bytes[a] / std::max<std::int64_t>(1, steps);
  }
  auto measured = nlohmann::ordered_json::object(), difference = measured;
  for (std::size_t c = 0; c < r.class_bytes.size(); ++c) {
    const std::string name(kMemoryClassNames[c]);
    json[name] = r.class_bytes[c];
    measured[name] = r.measured_class_bytes[c];
    difference[name] = r.measured_class_bytes[c] - r.class_bytes[c];
  }
  measured["padding"] = r.measured_padding_bytes();
  difference["padding"] = r.measured_padding_bytes() - r.padding_bytes;
  json["measured_class_bytes"] = std::move(measured);
  json["measured_minus_planned_bytes"] = std::move(difference);
  json["over_budget_bytes"] = std::max<std::int64_t>(0, r.over_budget_bytes());
  json["predicted_ms"] = times_json(r.predicted);
  json["measured_ms"] = times_json(r.measured);
  return json;
}

std::string peak_source(const RunSummary& s) {
  const char* start = s.peak_of_data_sheet ? "the data sheet of the devices" : "the matrix products measured at start";
  if (s.peak_step) return fmt::format("step {}, which was faster than {}", *s.peak_step, start);
  return fmt::format("{}{}, of all ranks", s.peak_of_data_sheet ? "" : "the fastest of ", start);
}

}  // namespace

std::vector<RankSummary> gather_summaries(const Group& control, const RankSummary& mine) {
  static_assert(std::is_trivially_copyable_v<RankSummary>);
  std::vector<RankSummary> all(static_cast<std::size_t>(control.size()));
  control.gather_values(&mine, sizeof(mine), all.data());
  return all;
}

void write_summary(const RunSummary& summary, const std::string& run_dir) {
  nlohmann::ordered_json json{{"step", summary.last.step},
                              {"tokens", summary.last.tokens},
                              {"loss", summary.last.loss},
                              {"lr", summary.last.lr},
                              {"grad_norm", summary.last.grad_norm},
                              {"step_ms", summary.last.step_ms},
                              {"tokens_per_s", summary.last.tokens_per_s},
                              {"model_gflops", summary.last.model_gflops},
                              {"mfu", summary.last.mfu}};
  json["steps_of_process"] = summary.steps;
  json["wall_seconds"] = summary.wall_seconds;
  json["mean_tokens_per_s"] = summary.tokens / summary.step_seconds;
  json["mean_model_gflops"] = summary.gflop / summary.step_seconds;
  json["mean_mfu"] = summary.gflop / summary.step_seconds / summary.peak_gflops;
  json["peak_gflops"] = summary.peak_gflops;
  json["peak_source"] = peak_source(summary);
  json["predicted_step_ms"] = summary.predicted.seconds * 1e3;
  if (summary.measured_step_s > 0) json["measured_step_ms"] = summary.measured_step_s * 1e3;
  json["predicted_from"] = summary.predicted.source;
  json["checkpoint"] = summary.checkpoint;
  if (summary.validation_loss) json["validation_loss"] = *summary.validation_loss;
  for (const RankSummary& r : summary.ranks) json["ranks"].push_back(rank_json(r, summary.steps));
  const std::string path = run_dir + "/summary.json", temporary = path + ".tmp";
  std::ofstream out(temporary);
  out << json.dump(2) << "\n";
  out.close();
  require(out.good(), ErrorKind::CheckpointIo, "{}: cannot be written", temporary);
  std::filesystem::rename(temporary, path);
}

std::string run_report(const RunSummary& s) {
  const double rate = s.gflop / s.step_seconds;
  std::string out = fmt::format("step {}: loss {:.6f}", s.last.step, s.last.loss);
  if (s.validation_loss) out += fmt::format(", validation loss {:.6f}", *s.validation_loss);
  out += fmt::format("\n{} steps, {} tokens in {} ({} in steps): {:.0f} tokens/s, {:.1f} GFLOP/s, MFU {:.1f}%\n",
                     format_count(s.steps), format_count(static_cast<std::int64_t>(s.tokens)),
                     duration_text(s.wall_seconds), duration_text(s.step_seconds), s.tokens / s.step_seconds, rate,
                     100 * rate / s.peak_gflops);
  out += fmt::format("MFU is of {:.1f} GFLOP/s: {}\n", s.peak_gflops, peak_source(s));
  return out + fmt::format("checkpoint: {}\n", s.checkpoint.empty() ? "none" : s.checkpoint);
}

std::string times_report(const RunSummary& summary) {
  std::string out = fmt::format("{}\n", summary.predicted.source);
  out += fmt::format("  {:<24}{:>14}{:>14}{:>10}\n", "ms", "predicted", "measured", "");
  const auto row = [&](const std::string& name, double predicted_s, std::optional<double> measured_s) {
    if (predicted_s == 0 && measured_s.value_or(0) == 0) return;
    out += fmt::format("  {:<24}{:>14.3f}{:>14}", name, predicted_s * 1e3,
                       measured_s ? fmt::format("{:.3f}", *measured_s * 1e3) : "-");
    out += measured_s > 0 ? fmt::format("{:>+8.1f} %\n", 100 * (predicted_s / *measured_s - 1)) : "\n";
  };
  row("step", summary.predicted.seconds, summary.measured_step_s);
  for (const RankSummary& r : summary.ranks) {
    const std::string rank = summary.ranks.size() > 1 ? fmt::format("rank {} ", r.rank) : "";
    row(rank + "forward", r.predicted.forward_s, r.measured.forward_s);
    row(rank + "backward", r.predicted.backward_s, r.measured.backward_s);
    row(rank + "of it again", r.predicted.recompute_s.value_or(0), r.measured.recompute_s);
    row(rank + "update", r.predicted.update_s, r.measured.update_s);
    for (std::size_t a = 0; a < kMeshAxes.size(); ++a)
      row(fmt::format("{}{} collectives", rank, kMeshAxes[a]), r.predicted.collective_s[a], r.measured.collective_s[a]);
  }
  return out;
}

std::string volume_report(const RunSummary& summary) {
  std::string out;
  for (std::size_t a = 0; a < kMeshAxes.size(); ++a) {
    const auto sent = [a](const RankSummary& r) { return r.collective_bytes[a]; };
    if (std::none_of(summary.ranks.begin(), summary.ranks.end(), sent)) continue;
    out += fmt::format("  {:<24}", kMeshAxes[a]);
    for (const RankSummary& r : summary.ranks)
      out += fmt::format("{:>16}", format_count(sent(r) / std::max<std::int64_t>(1, summary.steps)));
    out += "\n";
  }
  return out.empty() ? out : "sent per rank and step, bytes\n" + out;
}

namespace {

constexpr auto kOffloaded = static_cast<std::size_t>(MemoryClass::Offloaded);

// A line of the classes of a rank: planned, measured, difference.
struct ClassRow {
  std::string_view name;
  std::int64_t planned, measured;
  bool operator==(const ClassRow&) const = default;
};

std::vector<ClassRow> class_rows(const RankSummary& r) {
  std::vector<ClassRow> rows;
  for (std::size_t c = 0; c < kMemoryClassNames.size(); ++c) {
    if (c != kOffloaded || r.host_planned_bytes > 0)
      rows.push_back({kMemoryClassNames[c], r.class_bytes[c], r.measured_class_bytes[c]});
  }
  rows.push_back({"padding", r.padding_bytes, r.measured_padding_bytes()});
  return rows;
}

// Ranks with the same numbers share a table.
std::string classes_report(const RunSummary& summary) {
  std::vector<std::pair<std::vector<ClassRow>, std::vector<int>>> tables;
  for (const RankSummary& r : summary.ranks) {
    std::vector<ClassRow> rows = class_rows(r);
    const auto same = std::find_if(tables.begin(), tables.end(), [&](const auto& t) { return t.first == rows; });
    if (same != tables.end())
      same->second.push_back(r.rank);
    else
      tables.emplace_back(std::move(rows), std::vector{r.rank});
  }
  std::string out = "memory per class, bytes\n";
  for (const auto& [rows, ranks] : tables) {
    const std::string of = fmt::format("rank{} {}", ranks.size() > 1 ? "s" : "", fmt::join(ranks, ", "));
    out += fmt::format("  {:<24}{:>16}{:>16}{:>16}\n", of, "planned", "measured", "difference");
    for (const ClassRow& row : rows) {
      out += fmt::format("  {:<24}{:>16}{:>16}{:>16}\n", row.name, format_count(row.planned),
                         format_count(row.measured), format_count(row.measured - row.planned));
    }
  }
  return out;
}

}  // namespace

std::int64_t RankSummary::measured_padding_bytes() const {
  const auto classes = std::accumulate(measured_class_bytes.begin(), measured_class_bytes.end(), std::int64_t{0});
  return arena_high_water_bytes - (classes - measured_class_bytes[kOffloaded]);
}

bool RankSummary::as_planned() const {
  return arena_high_water_bytes == planned_bytes && host_high_water_bytes == host_planned_bytes &&
         measured_class_bytes == class_bytes;
}

std::string memory_report(const RunSummary& summary) {
  std::string out = classes_report(summary) + "memory per rank, bytes\n";
  const auto row = [&](std::string_view name, auto&& value) {
    out += fmt::format("  {:<24}", name);
    for (const RankSummary& r : summary.ranks) out += fmt::format("{:>16}", value(r));
    out += "\n";
  };
  row("rank", [](const RankSummary& r) { return std::to_string(r.rank); });
  row("arena planned", [](const RankSummary& r) { return format_count(r.planned_bytes); });
  row("arena high water", [](const RankSummary& r) { return format_count(r.arena_high_water_bytes); });
  row("high water - plan",
      [](const RankSummary& r) { return format_count(r.arena_high_water_bytes - r.planned_bytes); });
  row("outside the arena", [](const RankSummary& r) { return format_count(r.outside_arena_bytes); });
  row("process peak", [](const RankSummary& r) { return format_count(r.peak_process_bytes); });
  row("budget", [](const RankSummary& r) { return format_count(r.budget_bytes); });
  const bool offloads = std::any_of(summary.ranks.begin(), summary.ranks.end(),
                                    [](const RankSummary& r) { return r.host_planned_bytes > 0; });
  row(offloads ? "budget - peak + host" : "budget - process peak",
      [](const RankSummary& r) { return format_count(-r.over_budget_bytes()); });
  const auto over = [](const RankSummary& r) { return r.over_budget_bytes() > 0; };
  if (std::any_of(summary.ranks.begin(), summary.ranks.end(), over))
    row("OVER BUDGET by",
        [](const RankSummary& r) { return format_count(std::max<std::int64_t>(0, r.over_budget_bytes())); });
  if (offloads) {
    row("host arena planned", [](const RankSummary& r) { return format_count(r.host_planned_bytes); });
    row("host arena high water", [](const RankSummary& r) { return format_count(r.host_high_water_bytes); });
    row("host budget", [](const RankSummary& r) { return format_count(r.host_budget_bytes); });
  }
  row("allocations after step 1", [](const RankSummary& r) { return format_count(r.allocations_after_first_step); });
  return out;
}

std::vector<std::string> memory_faults(std::span<const RankSummary> ranks) {
  std::vector<std::string> faults;
  for (const RankSummary& r : ranks) {
    if (r.over_budget_bytes() > 0) {
      faults.push_back(
          fmt::format("rank {}: over budget: the peak is {} above memory.budget, with {} outside the arena{}: give a "
                      "memory.reserve of at least that",
                      r.rank, format_bytes(r.over_budget_bytes()), format_bytes(r.outside_arena_bytes),
                      r.device_memory ? ", what other processes took of the GPU meanwhile among it" : ""));
    }
    if (r.as_planned()) continue;
    std::vector<std::string> parts;
    const auto compare = [&](std::string_view name, std::int64_t measured, std::int64_t planned) {
      if (measured != planned)
        parts.push_back(fmt::format("{} {}, planned {}", name, format_count(measured), format_count(planned)));
    };
    compare("high water", r.arena_high_water_bytes, r.planned_bytes);
    compare("high water of the host arena", r.host_high_water_bytes, r.host_planned_bytes);
    for (std::size_t c = 0; c < kMemoryClassNames.size(); ++c)
      compare(kMemoryClassNames[c], r.measured_class_bytes[c], r.class_bytes[c]);
    faults.push_back(
        fmt::format("rank {}: memory was not used as planned, bytes measured: {}", r.rank, fmt::join(parts, "; ")));
  }
  return faults;
}

void check_memory_held(std::span<const RankSummary> ranks) {
  constexpr std::size_t kMostShown = 4;
  std::vector<std::string> faults = memory_faults(ranks);
  if (faults.empty()) return;
  const std::size_t more = faults.size() - std::min(faults.size(), kMostShown);
  faults.resize(faults.size() - more);
  const bool over = std::any_of(ranks.begin(), ranks.end(), [](const auto& r) { return r.over_budget_bytes() > 0; });
  fail(over ? ErrorKind::OutOfMemory : ErrorKind::Internal, "the run is done and saved, but {}{}",
       fmt::join(faults, "; "), more > 0 ? fmt::format("; and {} more rank(s)", more) : "");
}

}  // namespace plimsoll
