#pragma once
// The layout planner: over how many ranks the tensor, pipeline and data axes go, what ZeRO divides, how large a
// micro-batch is and how the pipeline is scheduled, so that a step is as short as a cost model says it can be and fits
// the budget (planner.md, section 4). A function of its arguments alone: every rank finds the same.
//
// Every combination that parallel/rules.hpp allows is tried; its memory and its time are bounded from below, and what
// is left is searched best first: by the least time that it can have, then by the time and the exact memory of its
// plan. The search ends when nothing that is left can be faster than what was planned. So the answer is the fastest
// layout that fits, as if every layout had been planned, with messages of sizes that follow from the links. Among the
// few fastest, where they are close, a simulation of their programs decides.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "optim/config.hpp"
#include "parallel/config.hpp"
#include "parallel/mesh.hpp"
#include "runtime/model/transformer.hpp"
#include "runtime/plan/cost.hpp"
#include "runtime/plan/memory.hpp"

namespace plimsoll {

struct LayoutProblem {
  ModelConfig model;  // resolved, with vocabulary
  DType dtype = DType::f32;
  bool fp8 = false;                         // ModelShape::fp8 …
  bool fp8_multiples = false;               // … on a device that wants them (fp8_size_fault)
  FusedHeads fused_heads;                   // ModelShape::fused_heads
  std::int64_t sequence = 1;                // tokens
  std::int64_t global_batch = 1;            // sequences of a step
  std::optional<std::int64_t> micro_batch;  // nullopt: chosen too
  OptimizerConfig optimizer;
  std::int64_t bucket_bytes = std::int64_t{25} << 20;  // of gradients, without ZeRO; …
  std::int64_t unit_bucket_bytes = 0;                  // … and with it; 0: each unit by itself
  std::int64_t logits_bytes = kLogitsBytes;
  int least_prefetch = 1;  // of ZeRO-3, uses ahead
  int ranks = 1;
  std::int64_t budget_bytes = 0;   // of a rank's arena; 0: no limit
  bool reduction_scratch = false;  // sums over ranks need memory, as on the CPU
  bool pipelines = true;           // may be more than one stage
  int most_tensor_nodes = 1;       // whose devices a split layer may be spread over
  int most_zero = 3;
  // Rewrites the differentiated graph of a piece (recomputation); may be empty.
  std::function<void(Graph&)> rewrite;
  // It is the most that the exact plan of a layout may do in order to fit: it counts for the bound of memory and not
  // for the time, to which the exact plan adds (ExactMemory::recompute_s).
  bool rewrite_at_need = false;
  bool offload = false;  // and values may wait in host memory instead
  // What exact plans size by the links (ExactMemory::sizes_s): buckets of gradients, ZeRO-3's gathers, chunks of split
  // linears.
  bool sized_buckets = false, sized_gathers = false, sized_chunks = false;
};

// Rates are those of `costs`; nodes and links those of `cluster`.
struct LayoutMachine {
  ClusterDescription cluster;
  const CostModel* costs = nullptr;
};

struct Layout {
  Mesh mesh;
  int zero = 0;
  bool sequence_parallel = false;
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  int chunks = 1;
  std::int64_t micro_batch = 1, micro_batches = 1;  // sequences; of a step and replica
  std::vector<std::int64_t> stage_layers;           // of each piece; empty: no pipeline
  bool operator==(const Layout&) const = default;
};
// "data 4 x pipeline 2 x tensor 1, zero 1, micro-batch 2 x 8, 1f1b"
std::string to_text(const Layout& layout);
// As a configuration writes it.
ParallelConfig to_parallel(const Layout& layout);

struct LayoutEstimate {
  double step_s = 0;
  double bubble = 0;                    // idle share of the pipeline
  double idle_s = 0;                    // that is, of step_s
  double exposed_s = 0;                 // communication that nothing hides, of step_s
  double update_s = 0;                  // optimizer, of step_s
  double recompute_s = 0;               // of step_s, where memory.recompute: auto needs it; see LayoutCosts::estimate
  int recompute_stage = 0;              // which needs that
  double hideable_s = 0;                // of step_s: sizes of messages take off no more
  double sizes_s = 0;                   // off step_s already: see ExactMemory
  double mfu = 0;                       // model FLOPs per second of all ranks / peak of the data sheet
  std::int64_t memory_bound_bytes = 0;  // no plan of the largest rank has fewer
  // What recomputation takes, and what the sizes of messages save (of which hideable_s counts), is known better.
  void set_recompute(double seconds);
  void set_sizes(double seconds);
  double least_s() const { return step_s + sizes_s - hideable_s; }  // whatever the sizes are
};

// What the plan of a layout takes on the rank that has most.
struct ExactMemory {
  std::int64_t arena_bytes = 0;
  ClassBytes class_bytes{};
  double recompute_s = 0;  // what it does to fit adds so much to a step
  // Where links are known, they decide what is sent together, how far ahead and in how many pieces: that takes so much
  // off a step with the usual sizes, which the estimate has.
  double sizes_s = 0;
  std::int64_t host_lacking_bytes = 0;  // what it offloads beyond the host memory that there is: it does not fit
};

// Who plans layouts exactly.
struct ExactLayouts {
  // Empty: nobody; then the bound stands for the memory. Where it fits, `arena_bytes` may be more than the plan needs,
  // and `class_bytes` nothing, until describe() was asked.
  std::function<ExactMemory(const Layout&)> plan;
  std::function<ExactMemory(const Layout&)> describe;  // to the byte; of a layout that was planned. Empty: plan() is
  // What the plan of one stage adds to a step in order to fit: at most ExactMemory::recompute_s, and asked first, since
  // it takes the time of one stage. nullopt: it does not fit. Empty: nobody.
  std::function<std::optional<double>(const Layout&, int stage)> recompute_s;
  // What a step takes in a simulation of the planned programs, which knows more of messages beside compute than the
  // estimate. Of layouts that were planned; empty: nobody.
  std::function<double(const Layout&)> simulate;
};

struct RankedLayout {
  Layout layout;
  LayoutEstimate estimate;
  std::optional<ExactMemory> exact = {};   // nullopt: nobody was asked
  std::optional<double> simulated_s = {};  // of a step; nullopt: no other layout is nearly as fast, or nobody was asked
};

// A layout that is not among the best, and why: the key of the rule that it breaks, "memory" or "time".
struct FallenLayout {
  Layout layout;
  std::string reason, text;
};

struct LayoutChoice {
  // The `most` with the least estimates, fastest first: those that were simulated, then the others; empty: none fits.
  std::vector<RankedLayout> best;
  std::optional<RankedLayout> least_memory;    // where none fits, the one that needs least of those looked at
  std::vector<FallenLayout> fell;              // all others; those that are slower from the fastest on
  std::map<std::string, std::int64_t> fallen;  // how many of them, by reason
  std::int64_t tried = 0, planned = 0;         // combinations; of them, those whose exact memory was asked for
  // Where plans keep turning out larger or slower than their bounds, the search ends after some hundred of them: then
  // no layout that was not planned is faster than this. nullopt: none is faster than the last of `best`.
  std::optional<double> unplanned_least_s;
  // The one of `best`, which has some, with the least estimate: estimates of other questions are held against it.
  const RankedLayout& least_estimate() const;
};

// Estimates layouts of one problem on one machine. Costs of pieces are measured on graphs of one and two layers, which
// have the same nodes as those of a run, and extended to any number of layers.
class LayoutCosts {
 public:
  LayoutCosts(LayoutProblem problem, LayoutMachine machine);
  ~LayoutCosts();
  // Why the device does not take the sizes of its linears in fp8; nullopt: it does.
  std::optional<std::string> fp8_fault(const Layout& layout);
  // All but stage_layers is given; they are cut so that the slowest piece is as fast as possible.
  void cut_stages(Layout& layout);
  std::int64_t memory_bound_bytes(const Layout& layout);
  double time_bound_s(const Layout& layout);  // at most estimate().least_s()
  // With rewrite_at_need, recompute_s is the least that any exact plan within the budget adds.
  LayoutEstimate estimate(const Layout& layout);
  const LayoutProblem& problem() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Every layout that the rules allow, stages cut; the others have fallen.
std::vector<Layout> enumerate_layouts(LayoutCosts& costs, const ClusterDescription& cluster, LayoutChoice& choice);

// Error(Config) where the cluster has fewer devices than ranks.
void require_devices(const ClusterDescription& cluster, int ranks);

LayoutChoice choose_layout(const LayoutProblem& problem, const LayoutMachine& machine, const ExactLayouts& exact,
                           std::size_t most = 5);

}  // namespace plimsoll
