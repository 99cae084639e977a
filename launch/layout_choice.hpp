#pragma once
// `parallel: auto`: the layout planner (parallel/layout.hpp) with the exact memory plans of this program.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "launch/run_setup.hpp"
#include "parallel/layout.hpp"

namespace plimsoll {

// The problem of a configuration that went through complete_vocabulary(); `arena_bytes`: budget of the arena, 0: none.
LayoutProblem layout_problem(const Config& config, int ranks, std::int64_t arena_bytes);

// What plans of this layout take, on the rank that has most, and what memory.recompute: auto adds to the step in them.
ExactMemory exact_memory(const Config& config, const Place& place, const Layout& layout, const CostModel& costs,
                         std::int64_t budget_bytes, std::int64_t outside_bytes);

// Writes a layout into a configuration, which then says so explicitly.
void use_layout(Config& config, const Layout& layout);
// The layout of programs that were chosen.
Layout layout_of(const ProgramOptions& options);
// What it takes, as a choice of one.
LayoutChoice predict_layout(const Config& config, const Place& place, const LayoutMachine& machine,
                            const RankBudgets& budgets, std::int64_t outside_bytes);

struct LayoutSearch {
  int most_tensor_nodes = 1;  // LayoutProblem's
  bool simulates = true;      // the best: for whoever compares estimates it would be work for nothing
};

// Chooses and writes the layout where the configuration says `parallel: auto`; nullopt where it does not. Budgets as
// in choose_programs(). Where nothing fits, it writes the layout that needs least: check_budget() then has the rest.
// Depends on its arguments only, and asks for costs in the same order everywhere, so all ranks choose alike.
std::optional<LayoutChoice> choose_layout(Config& config, const Place& place, const LayoutMachine& machine,
                                          std::int64_t budget_bytes, std::int64_t outside_bytes,
                                          const LayoutSearch& search = {});

// The parallel section on one line of YAML, for plan.json; reading it back is Error(BadData) where it cannot be read.
std::string parallel_line(const ParallelConfig& parallel);
ParallelConfig read_parallel_line(const std::string& line, const std::string& file);

// The best layouts, their time and memory; with `why`, what the others fell for (as text, of many some).
std::string layout_text(const LayoutChoice& choice, const ClusterDescription& cluster, std::int64_t arena_bytes,
                        bool why);
// Under "fell", with `why`, every other layout as a configuration says it, for whoever runs the whole grid.
nlohmann::json layout_json(const LayoutChoice& choice, bool why = false);

}  // namespace plimsoll
