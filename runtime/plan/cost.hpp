#pragma once
// What the nodes of a program cost in time. FLOPs and bytes come from the op declarations; a cost model has the rates.

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "runtime/exec/collectives.hpp"
#include "runtime/plan/cluster.hpp"

namespace plimsoll {

// The bytes that a node reads and writes in memory: every value once for each. An embedding touches the rows that it
// needs, not its table.
std::int64_t traffic_bytes(const Graph& graph, const Node& node);

// Where seconds come from: a description of a machine, or measurements of one.
class CostModel {
 public:
  virtual ~CostModel() = default;
  // Of a node on the compute stream, or of a copy; 0 for one that only communicates.
  virtual double node_seconds(const Graph& graph, const Node& node) const = 0;
  // Of a collective over `ranks` ranks that are `stride` apart; `bytes` as CollectiveCall::paced_bytes().
  virtual double collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const = 0;
  // Of the compute beside such a collective, a rank loses this share while it runs, in [0, 1): messages take processor
  // time, or units and memory of a GPU. 0 where nobody measured it.
  virtual double collective_slows(CollectiveKind /*kind*/, int /*ranks*/, int /*stride*/) const { return 0; }
  // Of one pass over memory.
  virtual double memory_seconds(std::int64_t bytes) const = 0;
};

// Under which operation a collective is measured.
LinkOperation operation_of(CollectiveKind kind);

// The link that a group uses: inside a node where `ranks` ranks that are `stride` apart fit into one.
const LinkDescription& link_of(const ClusterDescription& cluster, int ranks, int stride);

// Whose kernels run on a described device: those of a GPU compute in floats what its library does not take.
enum class KernelsOf : std::uint8_t { Host, Gpu };

// A roofline: max(FLOPs / rate of the op, bytes / memory rate) + overhead; copies take the link to the host. A
// collective of n ranks takes the latency of its ceil(log2 n) rounds (twice for an all-reduce; Thakur, Rabenseifner &
// Gropp 2005) plus the bytes that a rank sends (runtime/exec/volume.hpp) over the rate of the link; where the
// description has a measurement of such a group, what that says. Operands that a linear in fp8 makes for itself are
// passes over memory before it. Attention that our own kernels of a GPU compute (runtime/ops/attention_device.hpp) has
// the rate of attention in fp32, whatever its operands are, and the products that these kernels make. A precision
// without a rate is Error(Config).
class DescribedCosts : public CostModel {
 public:
  explicit DescribedCosts(ClusterDescription cluster, KernelsOf kernels = KernelsOf::Host);
  double node_seconds(const Graph& graph, const Node& node) const override;
  double collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const override;
  double collective_slows(CollectiveKind kind, int ranks, int stride) const override;
  double memory_seconds(std::int64_t bytes) const override;
  const ClusterDescription& cluster() const { return cluster_; }
  KernelsOf kernels() const { return kernels_; }

 private:
  ClusterDescription cluster_;
  KernelsOf kernels_;
  std::map<std::tuple<LinkOperation, std::int64_t, std::int64_t>, LinkTable> measured_;  // by operation, ranks, stride
};

// A program played on its streams, compute, communication and copy: a node begins when its stream is free and what it
// reads is written. Nodes that do not run in a middle micro-batch are left out.
struct NodeTimes {
  double forward_s = 0, backward_s = 0;                  // from the first node of the section to the end of its last
  double weight_grad_s = 0;                              // of backward: nodes of Phase::WeightGrad
  double exposed_forward_s = 0, exposed_backward_s = 0;  // of these, the compute stream waits
};
// `strides`: ranks between neighbours, by axis.
NodeTimes time_nodes(const Graph& graph, const CostModel& costs, const std::function<int(std::string_view)>& strides);

// The same program, of the micro-batches that run `when`: by node, when it has ended; of one that does not run then,
// and of the update, when those before it have.
std::vector<double> node_ends(const Graph& graph, const CostModel& costs,
                              const std::function<int(std::string_view)>& strides, Variant when);

}  // namespace plimsoll
