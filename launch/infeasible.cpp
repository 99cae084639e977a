#include "launch/infeasible.hpp"

#include <algorithm>

#include "runtime/core/text.hpp"

namespace plimsoll {

std::optional<Infeasible> check_host_budget(const Programs& programs, std::int64_t budget_bytes) {
  const std::int64_t needed = programs.plan.host_bytes;
  if (needed <= budget_bytes) return std::nullopt;
  Infeasible no{needed, budget_bytes, {}};
  no.of_host = true;
  no.text =
      fmt::format("the run offloads {} per rank to host memory but memory.host_budget is {}: {} too much\nlargest:",
                  format_bytes(needed), format_bytes(budget_bytes), format_bytes(needed - budget_bytes));
  const std::vector<LiveItem>& items = programs.plan.program("train").host_items;
  for (std::size_t i = 0; i < std::min<std::size_t>(8, items.size()); ++i)
    no.text += fmt::format("\n  {:>12}  {} (layer {})", format_bytes(items[i].bytes), items[i].name, items[i].layer);
  return no;
}

std::optional<Infeasible> check_budget(const Programs& programs, const ProgramOptions& options,
                                       std::int64_t budget_bytes, std::int64_t outside_bytes) {
  const std::int64_t needed = programs.plan.total_bytes + outside_bytes;
  if (needed <= budget_bytes) return std::nullopt;
  Infeasible no{needed, budget_bytes, {}};
  no.bound_bytes = least_arena_bytes(programs, options) + outside_bytes;
  no.text =
      fmt::format("the run needs {} per rank ({} in the arena, {} outside it) but memory.budget is {}: {} too much\n",
                  format_bytes(needed), format_bytes(programs.plan.total_bytes), format_bytes(outside_bytes),
                  format_bytes(budget_bytes), format_bytes(needed - budget_bytes));
  if (options.train)
    no.text +=
        fmt::format("it is the least plan found; no plan of any recomputation needs less than {}, a lower bound\n",
                    format_bytes(no.bound_bytes));
  struct Entry {
    std::string name;
    std::int64_t bytes;
  };
  std::vector<Entry> largest;
  for (const PersistentRegion& r : programs.plan.persistent) largest.push_back({r.name, r.bytes});
  const auto top =
      std::max_element(programs.plan.programs.begin(), programs.plan.programs.end(),
                       [](const ProgramLayout& a, const ProgramLayout& b) { return a.step_bytes < b.step_bytes; });
  for (const LiveItem& i : top->peak_items)
    largest.push_back({i.layer >= 0 ? fmt::format("{} (layer {})", i.name, i.layer) : i.name, i.bytes});
  std::stable_sort(largest.begin(), largest.end(), [](const Entry& a, const Entry& b) { return a.bytes > b.bytes; });
  no.text += fmt::format("largest at the peak ({} of program '{}'):", top->peak_node, top->name);
  for (std::size_t i = 0; i < std::min<std::size_t>(8, largest.size()); ++i) {
    no.text += fmt::format("\n  {:>12}  {}", format_bytes(largest[i].bytes), largest[i].name);
  }
  return no;
}

}  // namespace plimsoll
