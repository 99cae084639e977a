#include "launch/share_choice.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <span>

#include "runtime/plan/shard_sizes.hpp"

namespace plimsoll {
namespace {

// Long beside the time slices of a scheduler: a rank that shares its core is as slow as it will be.
constexpr double kMeasuredSeconds = 0.5;
constexpr std::int64_t kFewestRuns = 3, kMostRuns = 1000;

// Of each replica, the value of its rank that has most.
std::vector<double> slowest_of_replicas(const ProgramOptions& o, const Group& control, double mine) {
  std::vector<double> all(static_cast<std::size_t>(control.size()));
  control.gather_values(&mine, sizeof(mine), all.data());
  std::vector<double> slowest(static_cast<std::size_t>(o.mesh.data), 0);
  for (std::size_t r = 0; r < all.size(); ++r) {
    double& replica = slowest[static_cast<std::size_t>(coordinates(o.mesh, static_cast<int>(r)).data)];
    replica = std::max(replica, all[r]);
  }
  return slowest;
}

double seconds_of(Engine& engine, const MicroBatch& batch, std::int64_t runs) {
  const auto begin = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < runs; ++i) engine.rehearse(batch);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / static_cast<double>(runs);
}

double slowest_seconds(const std::vector<double>& micro_batch_s, const std::vector<std::int64_t>& shares) {
  double slowest = 0;
  for (std::size_t r = 0; r < shares.size(); ++r)
    slowest = std::max(slowest, static_cast<double>(shares[r]) * micro_batch_s[r]);
  return slowest;
}

template <class T>
std::string first_of(const std::vector<T>& values, const char* format) {
  constexpr std::size_t kMost = 16;
  std::vector<std::string> texts;
  for (const T& v : std::span(values).first(std::min(values.size(), kMost)))
    texts.push_back(fmt::format(fmt::runtime(format), v));
  return fmt::format("{}{}", fmt::join(texts, " "), values.size() > kMost ? " …" : "");
}

}  // namespace

std::vector<double> ShareChoice::slowness() const {
  std::vector<double> slowness;
  for (const double s : micro_batch_s)
    slowness.push_back(s / *std::max_element(micro_batch_s.begin(), micro_batch_s.end()));
  return slowness;
}

std::vector<double> measure_replicas(Engine& engine, const ProgramOptions& o, const Group& control,
                                     const MicroBatch& batch) {
  engine.rehearse(batch);  // touches memory, makes kernels
  control.barrier();
  // Ranks of a replica may wait for each other in it: they run as many.
  const std::vector<double> guess = slowest_of_replicas(o, control, seconds_of(engine, batch, 1));
  const double mine = std::max(1e-9, guess[static_cast<std::size_t>(coordinates(o.mesh, o.rank).data)]);
  const auto runs = static_cast<std::int64_t>(std::min(kMeasuredSeconds / mine, static_cast<double>(kMostRuns)));
  control.barrier();
  return slowest_of_replicas(o, control, seconds_of(engine, batch, std::max(kFewestRuns, runs)));
}

ShareChoice choose_shares(const ProgramOptions& o, std::vector<double> micro_batch_s,
                          const std::function<bool(const ProgramOptions&)>& fits) {
  // An interleaved pipeline takes as many at once as it has stages.
  const std::int64_t unit = o.mesh.pipeline > 1 && o.schedule == ScheduleKind::Interleaved ? o.mesh.pipeline : 1;
  const std::int64_t units = o.micro_batches * o.mesh.data / unit;
  ShareChoice choice;
  choice.shares.assign(static_cast<std::size_t>(o.mesh.data), o.micro_batches);
  choice.even_s = choice.seconds = slowest_seconds(micro_batch_s, choice.shares);
  std::vector<RankSpeed> ranks;
  for (const double s : micro_batch_s) ranks.push_back({s * static_cast<double>(unit), units});
  while (true) {
    const auto shared = share_micro_batches(units, ranks);
    if (!shared) break;
    ProgramOptions with = o;
    std::vector<std::int64_t> shares = shared->micro_batches;
    for (std::int64_t& share : shares) share *= unit;
    set_shares(with, shares, 0);
    if (choice.even_s - slowest_seconds(micro_batch_s, shares) < kLeastShareGain * choice.even_s) break;
    if (fits(with)) {
      choice.seconds = slowest_seconds(micro_batch_s, shares);
      choice.shares = std::move(shares);
      break;
    }
    const std::int64_t most = *std::max_element(shared->micro_batches.begin(), shared->micro_batches.end()) - 1;
    for (RankSpeed& rank : ranks) rank.most_batches = most;
  }
  choice.micro_batch_s = std::move(micro_batch_s);
  return choice;
}

std::string shares_text(const ShareChoice& choice) {
  std::vector<double> ms;
  for (const double s : choice.micro_batch_s) ms.push_back(s * 1e3);
  return fmt::format(
      "shares: a micro-batch takes {} ms by replica; {} of them: {:.4g} ms of compute in a step, {:.4g} with even "
      "shares\n",
      first_of(ms, "{:.3g}"), first_of(choice.shares, "{}"), choice.seconds * 1e3, choice.even_s * 1e3);
}

nlohmann::json shares_json(const ShareChoice& choice) {
  nlohmann::json json{{"compute_ms", choice.seconds * 1e3},
                      {"even_compute_ms", choice.even_s * 1e3},
                      {"gain_ms", choice.gain_s() * 1e3}};
  for (const double s : choice.micro_batch_s) json["micro_batch_ms"].push_back(s * 1e3);
  return json;
}

}  // namespace plimsoll
