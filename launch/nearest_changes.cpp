#include "launch/nearest_changes.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "launch/known_plans.hpp"
#include "launch/layout_choice.hpp"
#include "launch/roles.hpp"
#include "runtime/core/config_node.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

struct Candidate {
  std::vector<std::string> settings;
  int ranks;
};
using Candidates = std::vector<Candidate>;

template <class T>
std::string set(std::string_view key, const T& value) {
  return fmt::format("{}={}", key, value);
}

bool recomputes_by_need(const Config& config) {
  return config.memory.recompute == RecomputeMode::Auto && config.memory.recompute_layers.empty();
}

// Was parallel.sequence left open? What was resolved does not say.
bool sequence_is_open(const Config& config) {
  const ConfigEntry* parallel = config.source ? config.source->entry("parallel") : nullptr;
  const ConfigEntry* sequence = parallel != nullptr ? parallel->value.entry("sequence") : nullptr;
  return sequence == nullptr || sequence->value.is_word("auto");
}

void add_smaller_batches(const Config& config, const ProgramOptions& o, int ranks, Candidates& all) {
  std::int64_t rows = o.micro_batch - 1;  // the next that divides what this one divides
  while (rows > 0 && o.micro_batch % rows != 0) --rows;
  if (rows > 0) all.push_back({{set("train.micro_batch", rows)}, ranks});
  if (rows > 1) all.push_back({{set("train.micro_batch", 1)}, ranks});
  if (o.sequence > 1) all.push_back({{set("data.sequence", o.sequence / 2)}, ranks});
  constexpr std::int64_t kFewer = 8;
  if (config.memory.logits) all.push_back({{set("memory.logits", "auto")}, ranks});
  if (o.logits_bytes >= kFewer) all.push_back({{set("memory.logits", o.logits_bytes / kFewer)}, ranks});
}

void add_recomputation(const Config& config, int ranks, Candidates& all) {
  using enum RecomputeMode;
  const bool open = recomputes_by_need(config);
  for (const RecomputeMode mode : {Auto, Selective, Full, Offload}) {
    if (open && mode != Offload) continue;  // it has them all
    if (config.memory.recompute_layers.empty() && config.memory.recompute == mode) continue;
    all.push_back({{set("memory.recompute", to_text(mode))}, ranks});
  }
}

// What ZeRO divides further: over the replicas that are there, or over twice as many.
void add_replicas(const ProgramOptions& o, int ranks, Candidates& all) {
  const int most_zero = o.shares.empty() ? 3 : 1;
  for (int zero = o.zero + 1; o.mesh.data > 1 && zero <= most_zero; ++zero)
    all.push_back({{set("parallel.zero", zero)}, ranks});
  for (int zero = std::max(1, o.zero); zero <= most_zero; ++zero) {
    Candidate& twice = all.emplace_back(Candidate{{set("parallel.data", 2 * o.mesh.data)}, 2 * ranks});
    if (zero != o.zero) twice.settings.push_back(set("parallel.zero", zero));
  }
}

void add_ranks(const PlanQuestion& q, const ProgramOptions& o, int ranks, Candidates& all) {
  Candidate& split = all.emplace_back(Candidate{{set("parallel.tensor", 2 * o.mesh.tensor)}, 2 * ranks});
  // The layout that was chosen is written out, with what it does about sequences.
  if (q.layout_chosen && o.mesh.tensor == 1) split.settings.push_back("parallel.sequence=auto");
  if (!o.train) return;
  Candidate& longer = all.emplace_back(Candidate{{set("parallel.pipeline", 2 * o.mesh.pipeline)}, 2 * ranks});
  if (!o.stage_layers.empty()) longer.settings.push_back("parallel.stages=auto");
}

// More memory for the ranks that have less than is needed, or more of the host's for all.
void add_budgets(const PlanQuestion& q, const Infeasible& no, int ranks, Candidates& all) {
  if (no.of_host) {
    all.push_back({{set("memory.host_budget", no.needed_bytes)}, ranks});
    return;
  }
  std::vector<std::int64_t> listed = q.config.memory.budgets;
  for (std::int64_t& budget : listed) budget = std::max(budget, no.needed_bytes);
  all.push_back({{listed.empty() ? set("memory.budget", no.needed_bytes) : set("memory.budget", listed)}, ranks});
}

// The configuration with settings over it, read like a file. Throws Error(Config).
Config changed(const PlanQuestion& q, std::vector<std::string> settings, int ranks) {
  const bool open = !q.layout_chosen && sequence_is_open(q.config);
  const auto is_of_sequence = [](const std::string& s) { return s.starts_with("parallel.sequence="); };
  if (open && std::none_of(settings.begin(), settings.end(), is_of_sequence))
    settings.insert(settings.begin(), "parallel.sequence=auto");
  Config config = parse_config(dump_config(q.config), "the configuration", settings);
  config.gpu = q.config.gpu;  // what no key says
  config.plan.measured_links = q.config.plan.measured_links;
  check_for_ranks(config, ranks);
  return config;
}

// As many times the ranks stand on as many times the cores' parts.
Place place_of(Place place, int ranks) {
  const int times = std::max(1, ranks / place.ranks);
  return {0, ranks, 0, place.local_ranks * times, place.cores / times};
}

RankBudgets budgets_of(const PlanQuestion& q, const Config& config, int ranks) {
  const bool given = config.memory.budget != q.config.memory.budget || config.memory.budgets != q.config.memory.budgets;
  if (given || !config.memory.budgets.empty()) return given_budgets(config, ranks);
  return ranks == q.place.ranks ? q.budgets : RankBudgets(q.budgets.least());
}

// Of the rank that is most above its budget, and the most of what any offloads.
void find_needs(const ProgramOptions& o, const RankBudgets& budgets, std::int64_t outside_bytes,
                NearestChange& change) {
  std::int64_t above = std::numeric_limits<std::int64_t>::min();
  const auto look_at = [&](std::int64_t arena, std::int64_t host, std::int64_t budget) {
    change.host_bytes = std::max(change.host_bytes, host);
    if (arena + outside_bytes - budget <= above) return;
    above = arena + outside_bytes - budget;
    change.needed_bytes = arena + outside_bytes;
  };
  if (budgets.differ() || uneven_state(o) || !o.shares.empty()) {
    for (const RankRole& role : rank_roles(o))
      look_at(role.programs.plan.total_bytes, role.programs.plan.host_bytes, budgets.least_of(role.ranks));
  } else {
    for (const int stage : distinct_stages(o)) {
      const PlannedBytes plan = known_bytes(at_stage(o, stage), 0);
      look_at(plan.arena, plan.host, budgets.least());
    }
  }
  change.fits = above <= 0;
}

std::string text_of(const NearestChange& change, int ranks) {
  std::string text = fmt::format("\n  --set {}", fmt::join(change.settings, " --set "));
  if (change.ranks != ranks) text += fmt::format(", on {} ranks", change.ranks);
  text += fmt::format(": {}", format_bytes(change.needed_bytes));
  if (change.host_bytes > 0) text += fmt::format(" and {} of host memory", format_bytes(change.host_bytes));
  return text + (change.fits ? " (fits)" : " (does not fit)");
}

}  // namespace

std::optional<NearestChange> planned_change(const PlanQuestion& q, std::vector<std::string> settings, int ranks) {
  try {
    const Config config = changed(q, settings, ranks);
    const RankBudgets budgets = budgets_of(q, config, ranks);
    const std::int64_t host_bytes = config.memory.host_budget.value_or(q.host_bytes);
    const ProgramOptions o = choose_programs(config, place_of(q.place, ranks), q.purpose, budgets, q.outside_bytes,
                                             host_bytes, q.costs, q.measured);
    NearestChange change{std::move(settings), ranks};
    find_needs(o, budgets, q.outside_bytes, change);
    change.fits = change.fits && change.host_bytes <= host_bytes;
    return change;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Config) throw;
    return std::nullopt;  // the configuration says why it cannot be had
  }
}

void add_nearest_changes(Infeasible& no, const PlanQuestion& q, const ProgramOptions& o) {
  if (q.purpose == Purpose::Generate) return;
  const int ranks = q.place.ranks;
  Candidates candidates;
  add_smaller_batches(q.config, o, ranks, candidates);
  if (o.train) add_recomputation(q.config, ranks, candidates);
  add_replicas(o, ranks, candidates);
  add_ranks(q, o, ranks, candidates);
  if (o.train && o.optimizer.name == OptimizerName::AdamW) candidates.push_back({{"optimizer.name=sgd"}, ranks});
  const std::size_t others = candidates.size();
  add_budgets(q, no, ranks, candidates);
  std::vector<std::string> layout;
  if (q.layout_chosen)
    layout = {set("parallel", parallel_line(q.config.parallel)), set("train.micro_batch", o.micro_batch)};
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::vector<std::string> settings = layout;
    settings.insert(settings.end(), candidates[i].settings.begin(), candidates[i].settings.end());
    if (i == others) {
      std::stable_sort(no.changes.begin(), no.changes.end(), [](const NearestChange& a, const NearestChange& b) {
        if (a.fits != b.fits) return a.fits;
        return a.fits ? a.needed_bytes > b.needed_bytes : a.needed_bytes < b.needed_bytes;
      });
    }
    if (auto change = planned_change(q, std::move(settings), candidates[i].ranks))
      no.changes.push_back(std::move(*change));
  }
  no.text += "\nnearest changes:";
  for (const NearestChange& change : no.changes) no.text += text_of(change, ranks);
}

}  // namespace plimsoll
