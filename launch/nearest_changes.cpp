#include "launch/nearest_changes.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "launch/known_plans.hpp"
#include "launch/layout_choice.hpp"
#include "launch/roles.hpp"
#include "launch/run_costs.hpp"
#include "runtime/core/config_node.hpp"
#include "runtime/core/key_table.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

using Settings = std::vector<std::string>;

struct Candidate {
  Settings settings;
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

// A layout as a person would write it: without what is so by default.
Settings layout_settings(const ParallelConfig& parallel, std::int64_t micro_batch) {
  ConfigNode written = parallel_keys().write(parallel);
  const ConfigNode usual = parallel_keys().write(ParallelConfig{});
  std::erase_if(written.entries, [&](const ConfigEntry& entry) {
    const ConfigEntry* other = usual.entry(entry.key);
    return other != nullptr && other->value.one_line() == entry.value.one_line();
  });
  return {set("parallel", written.one_line()), set("train.micro_batch", micro_batch)};
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
  // What lies outside the arena is measured again by the run that is given this, and some hundred KiB more or less. In
  // whole MiB, and at least one of them more.
  constexpr std::int64_t kMiB = std::int64_t{1} << 20;
  const std::int64_t enough = no.needed_bytes / kMiB + 2;
  std::vector<std::string> listed;
  for (const std::int64_t budget : q.config.memory.budgets)
    listed.push_back(budget < no.needed_bytes ? fmt::format("{}MiB", enough) : std::to_string(budget));
  const std::string one = fmt::format("{}MiB", enough);
  all.push_back(
      {{listed.empty() ? set("memory.budget", one) : set("memory.budget", "[" + join(listed, ", ") + "]")}, ranks});
}

// The configuration with settings over it, read like a file. Throws Error(Config).
Config changed(const PlanQuestion& q, std::vector<std::string> settings, int ranks) {
  const bool open = !q.layout_chosen && sequence_is_open(q.config);
  const auto is_of_sequence = [](const std::string& s) {
    return s.starts_with("parallel.sequence=") || s.starts_with("parallel=");
  };
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

// For a POSIX shell: as it is, or between quotes.
std::string shell_word(const std::string& text) {
  constexpr std::string_view kPlain = "_./=:,+-@%";
  const auto is_plain = [&](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || kPlain.find(c) != std::string_view::npos;
  };
  if (std::all_of(text.begin(), text.end(), is_plain)) return text;
  std::string word;
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return "'" + word + "'";
}

std::string text_of(const NearestChange& change, int ranks) {
  std::string text = "\n ";
  if (change.ranks != ranks) text += fmt::format(" --ranks {}", change.ranks);
  for (const std::string& setting : change.settings) text += " --set " + shell_word(setting);
  text += fmt::format(": {}", format_bytes(change.needed_bytes));
  if (change.host_bytes > 0) text += fmt::format(" and {} of host memory", format_bytes(change.host_bytes));
  return text + (change.fits ? " (fits)" : " (does not fit)");
}

// The layouts of so many ranks whose bounds of memory fit, the least first. A few: a search among all of them for the
// fastest takes much longer than to find one.
std::vector<Layout> least_layouts(const PlanQuestion& q, int ranks) {
  constexpr std::size_t kMost = 4;
  const ClusterDescription cluster = choose_cluster(q.config);
  const DescribedCosts described(cluster, kernels_of(q.config));
  const std::int64_t arena = std::max<std::int64_t>(1, q.budgets.least() - q.outside_bytes);
  LayoutCosts costs(layout_problem(q.config, ranks, arena), {cluster, q.costs != nullptr ? q.costs : &described});
  LayoutChoice unused;
  std::vector<std::pair<std::int64_t, Layout>> bounded;
  for (Layout& layout : enumerate_layouts(costs, cluster, unused)) {
    const std::int64_t bytes = costs.memory_bound_bytes(layout);
    if (bytes <= arena) bounded.emplace_back(bytes, std::move(layout));
  }
  std::stable_sort(bounded.begin(), bounded.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Layout> least;
  for (std::size_t i = 0; i < std::min(kMost, bounded.size()); ++i) least.push_back(bounded[i].second);
  return least;
}

bool fits_with_other_ranks(const Infeasible& no, int ranks) {
  return std::any_of(no.changes.begin(), no.changes.end(),
                     [&](const NearestChange& change) { return change.fits && change.ranks != ranks; });
}

// Where no doubling of one axis suffices: the first of two, four, eight … times the ranks that has a layout.
void add_more_ranks(const PlanQuestion& q, Infeasible& no) {
  constexpr int kMostTimes = 64;
  for (int times = 2; times <= kMostTimes && !fits_with_other_ranks(no, q.place.ranks); times *= 2) {
    if (q.place.ranks > std::numeric_limits<int>::max() / times) return;
    const int ranks = times * q.place.ranks;
    for (const Layout& layout : least_layouts(q, ranks)) {
      auto change = planned_change(q, layout_settings(to_parallel(layout), layout.micro_batch), ranks);
      if (!change || !change->fits) continue;
      no.changes.push_back(std::move(*change));
      break;
    }
  }
}

// Those that fit, the least changed of them (which needs most) on top; behind them a few of the others, the nearest.
void sort_changes(std::vector<NearestChange>& changes) {
  constexpr std::ptrdiff_t kMostUnfit = 3;
  std::stable_sort(changes.begin(), changes.end(), [](const NearestChange& a, const NearestChange& b) {
    if (a.fits != b.fits) return a.fits;
    return a.fits ? a.needed_bytes > b.needed_bytes : a.needed_bytes < b.needed_bytes;
  });
  const auto unfit = std::find_if(changes.begin(), changes.end(), [](const NearestChange& c) { return !c.fits; });
  changes.erase(unfit + std::min(kMostUnfit, changes.end() - unfit), changes.end());
}

}  // namespace

std::optional<NearestChange> planned_change(const PlanQuestion& q, std::vector<std::string> settings, int ranks) {
  try {
    const Config config = changed(q, settings, ranks);
    if (!config.comm.cluster.empty()) require_devices(choose_cluster(config), ranks);
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
  Settings layout;
  if (q.layout_chosen) layout = layout_settings(q.config.parallel, o.micro_batch);
  const auto plan_all = [&](const Candidates& all) {
    for (const Candidate& candidate : all) {
      Settings settings = layout;
      settings.insert(settings.end(), candidate.settings.begin(), candidate.settings.end());
      if (auto change = planned_change(q, std::move(settings), candidate.ranks))
        no.changes.push_back(std::move(*change));
    }
  };
  plan_all(candidates);
  if (o.train) add_more_ranks(q, no);
  sort_changes(no.changes);
  Candidates budgets;
  add_budgets(q, no, ranks, budgets);
  plan_all(budgets);
  no.text += "\nnearest changes, as plimsoll plan takes them:";
  for (const NearestChange& change : no.changes) no.text += text_of(change, ranks);
}

}  // namespace plimsoll
