#pragma once
// One kind of layer, as the recompute planner sees it, and what each choice of kept tensors costs in it.
//
// A choice gives every tensor a fate: kept from forward to backward, made again, or sent to host memory and fetched
// back. Forward and backward of the layer are simulated for it: a tensor that is made again is made once, just before
// the first backward step that reads it, its missing ancestors before it, and each lives to its own last use. All bytes
// are of one micro-batch on one rank, all seconds are of one execution.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace plimsoll {

enum class Fate : std::uint8_t { Keep, Drop, Offload };

struct LayerTensor {
  std::string name;
  std::int64_t bytes = 0;
  std::vector<int> made_from = {};  // earlier tensors of the layer; empty for the boundary
  double seconds = 0;               // to make it, without collectives
  double collective_seconds = 0;    // of collectives that making it runs
  std::int64_t workspace_bytes = 0;
  bool always_kept = false;  // the boundary: it is never made again
  bool may_leave = false;    // of what is always kept: it may wait in host memory
  bool never_kept = false;   // not put to choice: a step on the way to others
  int kept_with = -1;        // kept only where that earlier tensor is not dropped; -1: any
  bool replayable = true;    // false: must not be made again
  bool offloadable = true;
  // In host memory it is so many copies (one for each value that it consists of) of so many bytes together; 0: `bytes`.
  int copies = 1;
  std::int64_t host_bytes = 0;
  std::int64_t bytes_on_host() const { return host_bytes > 0 ? host_bytes : bytes; }
  bool operator==(const LayerTensor&) const = default;
};

struct LayerGradient {
  std::string name;
  std::int64_t bytes = 0;
  bool operator==(const LayerGradient&) const = default;
};

// One backward step. A gradient lives from the step that makes it (from the start of the layer's backward where no step
// does) to the last step that uses it; one that no step uses lives to the end.
struct BackwardStep {
  std::string name;
  double seconds = 0;
  std::vector<int> reads = {};  // tensors
  std::vector<int> makes = {};  // gradients
  std::vector<int> uses = {};   // gradients
  std::int64_t workspace_bytes = 0;
  bool operator==(const BackwardStep&) const = default;
};

// A part of the layer that can run in blocks of rows (tokens), one block after another: its tensors, dropped, and the
// gradients between its steps then exist for one block at a time. Sums over rows are taken in another order.
struct RowSplit {
  std::vector<int> tensors = {};
  int first_step = 0, last_step = 0;  // both within
  struct Parts {
    int count;       // of blocks, at least 2
    double seconds;  // that so many add to forward, its repetition and backward together
    bool operator==(const Parts&) const = default;
  };
  std::vector<Parts> parts = {};    // on offer
  double seconds(int count) const;  // of those; 0 for one block. Error(Internal) where they are not on offer
  bool operator==(const RowSplit&) const = default;
};

struct LayerKind {
  std::string name;
  std::vector<LayerTensor> tensors;  // in the order in which forward makes them
  int output = -1;                   // the boundary of the next layer, alive at the end of forward; -1: none
  std::vector<LayerGradient> gradients;
  std::vector<BackwardStep> steps;
  std::optional<RowSplit> rows;
  // What is saved lies in places that nothing else may use (slots of a pipeline), and the peaks are without it.
  bool saved_apart = false;
  std::int64_t host_limit_bytes = std::numeric_limits<std::int64_t>::max();  // that it may send to host memory

  double forward_seconds() const;  // with collectives
  bool operator==(const LayerKind&) const = default;
};

// The way to host memory. Without overlap, copies stand between compute: two times bytes / rate. With overlap a copy
// stream works beside compute, as in runtime/graph/offload.hpp and runtime/plan/in_flight.hpp. In forward one copy is
// under way while the next tensor that is sent is made; the last one goes on beside the next layer, which is taken to
// be alike. In backward a copy starts kFetchAhead steps before the first that reads it (in those of the layer behind,
// taken to be alike, where there are fewer) and takes memory from then on. Only the waiting costs, and the price of the
// link, which all layers share: what one of them leaves free others can use.
struct HostLink {
  double to_host_bytes_per_second = 0, from_host_bytes_per_second = 0;
  double latency_seconds = 0;  // of each copy
  bool overlap = true;
  double price = 0;  // with overlap: of each second of a copy
  bool operator==(const HostLink&) const = default;
};

struct LayerOption {
  std::vector<Fate> fates;  // by tensor
  int row_parts = 1;
  std::int64_t saved_bytes = 0;          // between forward and backward
  std::int64_t forward_peak_bytes = 0;   // of the layer, with what it saves (but see LayerKind::saved_apart)
  std::int64_t backward_peak_bytes = 0;  // of the layer, with what it saved
  std::int64_t host_bytes = 0;
  double seconds = 0;  // beyond keeping everything, with the collectives that run again

  std::int64_t peak_bytes() const { return std::max(forward_peak_bytes, backward_peak_bytes); }
};

// Throws Error(Internal), naming the kind and the tensor or step, on indices out of order, negative or non-finite
// numbers.
void check_layer_kind(const LayerKind& kind);

// What the fates come to. nullopt where they are impossible: a tensor that must be kept is not, or is kept without the
// one that it is kept with, one that cannot be made again would be, more is sent to host memory than the kind may send,
// or a block of rows would be read outside its part. `link` may be null without Offload.
std::optional<LayerOption> simulate_layer(const LayerKind& kind, const std::vector<Fate>& fates, int row_parts,
                                          const HostLink* link);

}  // namespace plimsoll
