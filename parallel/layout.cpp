#include "parallel/layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <queue>
#include <set>
#include <tuple>

#include "parallel/rules.hpp"
#include "parallel/tensor.hpp"

namespace plimsoll {
namespace {

// More pieces per stage than this shorten the bubble by little and double the messages.
constexpr int kMostChunks = 8;
// Where plans keep turning out larger than their bound, the search ends after so many.
constexpr std::int64_t kMostPlans = 200;
// Layouts whose estimates are within this of the least may be faster than that one, for what estimates leave out.
constexpr double kNearlyAsFast = 1.2;
// So many to find the one that needs least where nothing fits.
constexpr std::int64_t kMostLeastPlans = 64;

std::vector<int> divisors(std::int64_t n) {
  std::vector<int> all;
  for (std::int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) all.push_back(static_cast<int>(d));
  }
  return all;
}

// Enumerates in nested levels: mesh, schedule, micro-batch, what is divided.
class Enumerator {
 public:
  Enumerator(LayoutCosts& costs, const ClusterDescription& cluster, LayoutChoice& choice)
      : costs_(costs), problem_(costs.problem()), cluster_(cluster), choice_(choice) {}

  std::vector<Layout> all() {
    const std::int64_t together = problem_.most_tensor_nodes * cluster_.devices_per_node;
    for (const int tensor : divisors(std::min<std::int64_t>(problem_.ranks, together))) {
      if (problem_.ranks % tensor != 0) continue;
      const int rest = problem_.ranks / tensor;
      for (const int pipeline : divisors(rest)) {
        if (pipeline > problem_.model.layers || (pipeline > 1 && !problem_.pipelines)) break;
        Layout l;
        l.mesh.tensor = tensor;
        l.mesh.pipeline = pipeline;
        l.mesh.data = l.mesh.shards = rest / pipeline;
        l.mesh.kv_copies = TensorParallel{tensor, 0, false}.kv_copies(problem_.model);
        for (const bool sequence : {true, false}) {
          if (sequence && tensor == 1) continue;
          l.sequence_parallel = sequence;
          schedules(l);
        }
      }
    }
    return std::move(layouts_);
  }

 private:
  void schedules(Layout l) {
    micro_batches(l);
    if (l.mesh.pipeline == 1) return;
    // GPipe is left out: 1F1B takes the same time with fewer slots.
    l.schedule = ScheduleKind::ZbH1;
    micro_batches(l);
    l.schedule = ScheduleKind::Interleaved;
    for (l.chunks = 2; l.chunks <= kMostChunks && l.chunks * l.mesh.pipeline <= problem_.model.layers; ++l.chunks)
      micro_batches(l);
  }

  void micro_batches(Layout l) {
    if (fell(l, layout_issues(to_parallel(l), problem_.model, problem_.sequence))) return;
    const std::int64_t share = problem_.global_batch / l.mesh.data;
    if (share == 0 || problem_.micro_batch) {
      l.micro_batch = problem_.micro_batch.value_or(1);
      return zero_levels(l, share);
    }
    for (const int rows : divisors(share)) {
      l.micro_batch = rows;
      zero_levels(l, share);
    }
  }

  void zero_levels(Layout l, std::int64_t share) {
    if (fell(l, rank_issues(to_parallel(l), problem_.ranks, problem_.global_batch, l.micro_batch))) return;
    if (const auto fault = costs_.fp8_fault(l)) return fall(l, "fp8", *fault);
    l.micro_batches = share / l.micro_batch;
    costs_.cut_stages(l);
    const int near = static_cast<int>(cluster_.devices_per_node) / l.mesh.tensor;
    for (l.zero = 0; l.zero <= (l.mesh.data > 1 ? problem_.most_zero : 0); ++l.zero) {
      l.mesh.shards = l.mesh.data;
      keep(l);
      if (l.zero == 0 || near < 2 || near >= l.mesh.data || l.mesh.data % near != 0) continue;
      l.mesh.shards = near;
      keep(l);
    }
  }

  bool fell(const Layout& l, const std::vector<ConfigIssue>& issues) {
    if (!issues.empty()) fall(l, issues.front().key, issues.front().text);
    return !issues.empty();
  }
  void fall(const Layout& l, const std::string& key, const std::string& text) {
    ++choice_.tried;
    ++choice_.fallen[key];
    choice_.fell.push_back({l, key, text});
  }
  void keep(const Layout& l) {
    ++choice_.tried;
    layouts_.push_back(l);
  }

  LayoutCosts& costs_;
  const LayoutProblem& problem_;
  const ClusterDescription& cluster_;
  LayoutChoice& choice_;
  std::vector<Layout> layouts_;
};

// A layout on its way: with a bound of its time, then with that of its estimate, then (where that adds to it) with what
// the plan of a stage does to fit, and at last with the time of its plan.
enum class Known : std::uint8_t { Bound, Estimate, Stage, Plan };
struct Entry {
  double seconds;      // at least, until it is planned
  std::int64_t bytes;  // equally fast: the smaller one
  std::size_t index;
  Known known;
  bool operator>(const Entry& o) const {
    return std::tie(seconds, bytes, index, known) > std::tie(o.seconds, o.bytes, o.index, o.known);
  }
};

class Search {
 public:
  Search(const LayoutProblem& problem, const LayoutMachine& machine, const ExactLayouts& exact)
      : costs_(problem, machine), cluster_(machine.cluster), exact_(exact) {}

  LayoutChoice run(std::size_t most) {
    layouts_ = enumerate_layouts(costs_, cluster_, choice_);
    for (std::size_t i = 0; i < layouts_.size(); ++i) bound(i);
    while (!queue_.empty() && choice_.best.size() < most && choice_.planned < kMostPlans) {
      const Entry top = queue_.top();
      queue_.pop();
      switch (top.known) {
        case Known::Bound: estimate(top); break;
        case Known::Estimate:
          if (!plan_stage(top)) decide(top);
          break;
        case Known::Stage: decide(top); break;
        case Known::Plan: choice_.best.push_back(std::move(planned_.at(top.index))); break;
      }
    }
    if (choice_.best.size() < most) take_planned(most);
    // Times of what is left are at least that of the last of the best, which says nothing of the others.
    const std::size_t best = choice_.best.size();
    const std::string slower = best > 1 ? fmt::format("slower than the best {}", best) : "slower than the best";
    for (; !queue_.empty(); queue_.pop()) {
      const Entry& entry = queue_.top();
      fall(entry.index, "time",
           fmt::format("{}: {} {:.6g} ms", slower, entry.known == Known::Plan ? "its plan takes" : "at least",
                       1e3 * entry.seconds));
    }
    if (choice_.best.empty() && !layouts_.empty()) find_least();
    for (RankedLayout& ranked : choice_.best) {
      if (ranked.exact && exact_.describe) ranked.exact = exact_.describe(ranked.layout);
    }
    if (exact_.simulate) simulate_nearest();
    return std::move(choice_);
  }

 private:
  std::int64_t budget() const { return costs_.problem().budget_bytes; }

  void bound(std::size_t i) {
    const std::int64_t bytes = costs_.memory_bound_bytes(layouts_[i]);
    bounds_.push_back(bytes);
    if (budget() > 0 && bytes > budget()) {
      fall(i, "memory", fmt::format("needs at least {} bytes of {}", bytes, budget()));
    } else {
      queue_.push({costs_.time_bound_s(layouts_[i]), bytes, i, Known::Bound});
    }
  }

  void estimate(const Entry& entry) {
    const LayoutEstimate& e = estimates_[entry.index] = costs_.estimate(layouts_[entry.index]);
    queue_.push({e.least_s(), entry.bytes, entry.index, Known::Estimate});
  }

  // Does the stage that recomputes most, one of several, say more than the estimate did? What copies to host memory
  // cost is in no estimate; the first stage has most micro-batches in flight.
  bool plan_stage(const Entry& entry) {
    LayoutEstimate& e = estimates_[entry.index];
    if (!exact_.recompute_s || layouts_[entry.index].mesh.pipeline == 1) return false;
    if (e.recompute_s == 0 && !costs_.problem().offload) return false;
    const std::optional<double> seconds = exact_.recompute_s(layouts_[entry.index], e.recompute_stage);
    if (!seconds || *seconds <= e.recompute_s) return false;
    e.set_recompute(*seconds);
    queue_.push({e.least_s(), entry.bytes, entry.index, Known::Stage});
    return true;
  }

  void decide(const Entry& entry) {
    const std::size_t i = entry.index;
    RankedLayout ranked{layouts_[i], estimates_[i], std::nullopt};
    if (exact_.plan) {
      ++choice_.planned;
      ranked.exact = exact_.plan(ranked.layout);
    }
    const bool in_host = !ranked.exact || ranked.exact->host_lacking_bytes == 0;
    if (!ranked.exact || (in_host && (budget() == 0 || ranked.exact->arena_bytes <= budget()))) {
      if (ranked.exact) ranked.estimate.set_recompute(ranked.exact->recompute_s);
      if (ranked.exact) ranked.estimate.set_sizes(ranked.exact->sizes_s);
      queue_.push({ranked.estimate.step_s, entry.bytes, i, Known::Plan});
      planned_.emplace(i, std::move(ranked));
      return;
    }
    misfits_.insert(i);
    fall(i, "memory",
         in_host ? fmt::format("its plan has {} bytes of {}", ranked.exact->arena_bytes, budget())
                 : fmt::format("it offloads {} bytes more than host memory has", ranked.exact->host_lacking_bytes));
    take_least(std::move(ranked));
  }

  void simulate_nearest() {
    std::vector<RankedLayout>& best = choice_.best;
    const auto near = std::find_if(best.begin(), best.end(), [&](const RankedLayout& r) {
      return r.estimate.step_s > kNearlyAsFast * best.front().estimate.step_s;
    });
    if (near - best.begin() < 2) return;
    for (auto r = best.begin(); r != near; ++r) r->simulated_s = exact_.simulate(r->layout);
    std::stable_sort(best.begin(), near,
                     [](const RankedLayout& a, const RankedLayout& b) { return *a.simulated_s < *b.simulated_s; });
  }

  // What lacks nothing of host memory comes first.
  void take_least(RankedLayout ranked) {
    std::optional<RankedLayout>& least = choice_.least_memory;
    const auto needs = [](const RankedLayout& r) {
      return std::pair(r.exact->host_lacking_bytes, r.exact->arena_bytes);
    };
    if (!least || (ranked.exact && needs(ranked) < needs(*least))) least = std::move(ranked);
  }

  // The search ended early: what was planned counts, and what was not has a bound.
  void take_planned(std::size_t most) {
    std::vector<Entry> rest;
    for (; !queue_.empty() && choice_.best.size() < most; queue_.pop()) {
      if (queue_.top().known == Known::Plan) {
        choice_.best.push_back(std::move(planned_.at(queue_.top().index)));
      } else {
        rest.push_back(queue_.top());
      }
    }
    if (!rest.empty()) choice_.unplanned_least_s = rest.front().seconds;
    for (const Entry& entry : rest) queue_.push(entry);
  }

  void fall(std::size_t i, const char* why, std::string text) {
    ++choice_.fallen[why];
    choice_.fell.push_back({layouts_[i], why, std::move(text)});
  }

  // Nothing fits: the plan that needs least, in the order of the bounds until they exclude a smaller one.
  void find_least() {
    std::vector<std::size_t> order(layouts_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return bounds_[a] < bounds_[b]; });
    std::int64_t plans = 0;
    for (const std::size_t i : order) {
      const std::optional<RankedLayout>& least = choice_.least_memory;
      if (least && (!exact_.plan || plans == kMostLeastPlans)) return;
      if (least && least->exact->host_lacking_bytes == 0 && bounds_[i] >= least->exact->arena_bytes) return;
      if (misfits_.contains(i)) continue;
      RankedLayout ranked{layouts_[i], costs_.estimate(layouts_[i]), std::nullopt};
      if (exact_.plan) {
        ++choice_.planned;
        ++plans;
        ranked.exact = exact_.plan(ranked.layout);
      }
      take_least(std::move(ranked));
    }
  }

  LayoutCosts costs_;
  const ClusterDescription& cluster_;
  const ExactLayouts& exact_;
  LayoutChoice choice_;
  std::vector<Layout> layouts_;
  std::map<std::size_t, LayoutEstimate> estimates_;
  std::map<std::size_t, RankedLayout> planned_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
  std::vector<std::int64_t> bounds_;  // of memory
  std::set<std::size_t> misfits_;     // whose plans were too large
};

}  // namespace

const RankedLayout& LayoutChoice::least_estimate() const {
  return *std::min_element(best.begin(), best.end(), [](const RankedLayout& a, const RankedLayout& b) {
    return a.estimate.step_s < b.estimate.step_s;
  });
}

std::string to_text(const Layout& l) {
  std::string text = fmt::format("data {} x pipeline {} x tensor {}", l.mesh.data, l.mesh.pipeline, l.mesh.tensor);
  if (l.sequence_parallel) text += " + sequence";
  text += fmt::format(", zero {}", l.zero);
  if (l.zero > 0 && l.mesh.shards < l.mesh.data) text += fmt::format(" over {}", l.mesh.shards);
  if (l.mesh.pipeline > 1) text += fmt::format(", {}", to_text(l.schedule));
  if (l.chunks > 1) text += fmt::format(" {}", l.chunks);
  return text + fmt::format(", micro-batch {} x {}", l.micro_batch, l.micro_batches);
}

ParallelConfig to_parallel(const Layout& l) {
  ParallelConfig p;
  p.data = l.mesh.data;
  p.pipeline = l.mesh.pipeline;
  p.tensor = l.mesh.tensor;
  p.zero = l.zero;
  if (l.zero > 0) p.shard = l.mesh.shards;
  p.sequence = l.sequence_parallel;
  p.schedule = l.schedule;
  if (l.chunks > 1) p.interleave = l.chunks;
  if (!l.stage_layers.empty()) p.stages = l.stage_layers;
  return p;
}

std::vector<Layout> enumerate_layouts(LayoutCosts& costs, const ClusterDescription& cluster, LayoutChoice& choice) {
  return Enumerator(costs, cluster, choice).all();
}

void require_devices(const ClusterDescription& cluster, int ranks) {
  require(ranks <= cluster.devices_per_node * cluster.nodes.value_or(ranks), ErrorKind::Config,
          "{} ranks are more than the {} node(s) of {} devices of the cluster", ranks, cluster.nodes.value_or(0),
          cluster.devices_per_node);
}

LayoutChoice choose_layout(const LayoutProblem& problem, const LayoutMachine& machine, const ExactLayouts& exact,
                           std::size_t most) {
  require_devices(machine.cluster, problem.ranks);
  return Search(problem, machine, exact).run(most);
}

}  // namespace plimsoll
