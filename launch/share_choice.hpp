#pragma once
// `parallel.shares: auto`: micro-batches for replicas by their speed (planner.md, section 3). The speed is measured
// where it counts: every rank runs micro-batches of its own program before step 0, all ranks at once, as in a step;
// what they leave behind is overwritten by the first step.

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "launch/engine.hpp"

namespace plimsoll {

// Below this share of the step a predicted gain is not told from noise, and shares stay even.
inline constexpr double kLeastShareGain = 0.02;

struct ShareChoice {
  std::vector<std::int64_t> shares;   // micro-batches of each replica
  std::vector<double> micro_batch_s;  // forward and backward of one, by replica
  double seconds = 0;                 // of these shares on the replica that is done last; without sums, gathers, update
  double even_s = 0;                  // the same with even ones
  double gain_s() const { return even_s - seconds; }
  // The time of each replica for a micro-batch over that of the slowest, which is what a kernel profile speaks of.
  std::vector<double> slowness() const;
};

// Seconds of a micro-batch on each replica: of its slowest rank, the mean of as many as take about half a second.
// Collective over `control`, of all ranks; parameters must have values. Not with ZeRO 2 and 3.
std::vector<double> measure_replicas(Engine& engine, const ProgramOptions& options, const Group& control,
                                     const MicroBatch& batch);

// The shares for replicas of these speeds; `options` has even ones. Where a plan of a pipeline with other numbers of
// micro-batches does not fit (`fits`), the largest share is made smaller. The same on all ranks.
ShareChoice choose_shares(const ProgramOptions& options, std::vector<double> micro_batch_s,
                          const std::function<bool(const ProgramOptions&)>& fits);

std::string shares_text(const ShareChoice& choice);
nlohmann::json shares_json(const ShareChoice& choice);

}  // namespace plimsoll
