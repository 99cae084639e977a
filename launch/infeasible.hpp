#pragma once
// Does a plan fit the budgets, and if not, what is largest?

#include "launch/programs.hpp"

namespace plimsoll {

// What a run would need with other settings.
struct NearestChange {
  std::vector<std::string> settings;  // of --set, together
  int ranks = 1;                      // that it is for
  std::int64_t needed_bytes = 0;      // as Infeasible has it, of its rank
  std::int64_t host_bytes = 0;        // that a rank offloads at most
  bool fits = false;                  // into the budgets
};

// Does not fit: what is largest, and, where somebody asked (launch/nearest_changes.hpp), the changes that would fit or
// come near. Its text is what the user sees.
struct Infeasible {
  std::int64_t needed_bytes = 0, budget_bytes = 0;
  std::string text;
  std::int64_t bound_bytes = 0;  // the rank needs as much with any recomputation of the same model, batch and mesh
  bool of_host = false;          // the bytes are those of host memory
  std::vector<NearestChange> changes = {};
};
// budget ≥ arena + outside? `outside_bytes`: what the process needs besides the arena.
std::optional<Infeasible> check_budget(const Programs& programs, const ProgramOptions& options,
                                       std::int64_t budget_bytes, std::int64_t outside_bytes);
// The same of what is offloaded: memory.host_budget ≥ host arena?
std::optional<Infeasible> check_host_budget(const Programs& programs, std::int64_t budget_bytes);

}  // namespace plimsoll
