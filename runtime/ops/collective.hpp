#pragma once
#include "runtime/ops/op.hpp"
#include "runtime/tensor/rank_cuts.hpp"

namespace plimsoll {

// Collectives are ops over a mesh axis, on a communication stream. Sums are made by the owner of an element in rank
// order (design §9.8). The backward of a collective is its conjugate: all_gather ↔ reduce_scatter, and the pair
// copy_to, reduce_from around a region whose ranks work on parts (f and g of Shoeybi et al. 2019, Megatron-LM).
// Gradients are overwritten, never added to: autodiff adds a further contribution with a node of its own.

// Bytes of one piece of a reduction: large enough for full bandwidth, small enough to stay in cache while it is summed.
inline constexpr std::int64_t kPieceBytes = std::int64_t{512} << 10;

// Scratch in which a rank receives what it sums: up to two pieces from every other rank, whatever the size of the
// tensor …
constexpr std::int64_t reduce_scratch_bytes(int ranks) { return 2 * (ranks - 1) * kPieceBytes; }
// … and exactly, for one whose largest share (elements of a rank, rounded up, in bytes) is known: the cell of one piece
// of one rank, and all of them.
constexpr std::int64_t reduce_cell_bytes(std::int64_t share_bytes) {
  return share_bytes < kPieceBytes ? share_bytes : kPieceBytes;
}
constexpr std::int64_t reduce_scratch_bytes(int ranks, std::int64_t share_bytes) {
  return (share_bytes > kPieceBytes ? 2 : 1) * (ranks - 1) * reduce_cell_bytes(share_bytes);
}

// x = Σ_ranks x, or the `largest` of them, in place: gradients, losses, maximums. `scratch` (u8): what the reduction
// receives before it is summed; the all-reduces of a program run one after another and share it.
struct AllReduce : OpDefaults {
  struct Attrs {
    std::string axis = "data";
    int ranks = 1;                          // size of the axis
    std::vector<ElementRange> ranges = {};  // of x, rising; all at once. Empty: all of it
    bool largest = false;                   // of the ranks, instead of their sum
  };
  static constexpr std::string_view name = "all_reduce";
  static constexpr bool update_only = true;
  static constexpr bool collective = true;
  enum : int { kX, kScratch };
  static constexpr std::array slots{Slot{"x", Role::State}, Slot{"scratch", Role::State}};
  static void infer(const Attrs&, SlotSpecs&) {}
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::vector<Sample<Attrs>> samples();
};

struct AxisAttrs {
  std::string axis = "tensor";
  int ranks = 1;  // size of the axis
};

// y = Σ_ranks x in phase `sums`, y = x in the other, of values in Forward and of gradients in InputGrad.
template <Phase sums>
struct SumOverRanks : OpDefaults {
  using Attrs = AxisAttrs;
  static constexpr bool collective = true;
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input, Backward::Ignores, false, kY},
                                    Slot{"y", Role::Output, Backward::Ignores, false, kX}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// Into the region: x is the same on all ranks, which use it for different parts, so its gradient is the sum of theirs.
struct CopyTo : SumOverRanks<Phase::InputGrad> {
  static constexpr std::string_view name = "copy_to";
};
// Out of it: every rank has a part of the sum; what follows is the same on all ranks, and so is its gradient.
struct ReduceFrom : SumOverRanks<Phase::Forward> {
  static constexpr std::string_view name = "reduce_from";
};

struct DimAttrs {
  std::string axis = "tensor";
  int ranks = 1;  // size of the axis
  int dim = 0;    // of the tensor, from 0
  // Where parts differ, which only those of dim 0 may: those of `ranks`, of which `rank` has this one's. Empty: equal.
  RankCuts cuts = {};
  int rank = 0;
};

// A tensor as blocks: its part on one rank is [outer, block] of [outer, ranks, block], where outer are the dims before
// `dim`. Unless outer is 1, the parts are not contiguous and a collective works on a copy with the ranks in front.
struct RankBlocks {
  std::int64_t outer = 1, block_bytes = 0;
};
RankBlocks rank_blocks(const TensorSpec& part, int dim);
// Of that copy; 0 where none is needed.
std::int64_t reorder_bytes(const DimAttrs& a, const TensorSpec& part);

// Along one dim: the whole → this rank's part of the sum over ranks in phase `sums`, part → whole in the other.
template <Phase sums>
struct AlongDim : OpDefaults {
  using Attrs = DimAttrs;
  static constexpr bool collective = true;
  enum : int { kX, kY };
  static constexpr int part = sums == Phase::Forward ? kY : kX;  // the slot that is split over the ranks
  static constexpr int whole = sums == Phase::Forward ? kX : kY;
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"y", Role::Output}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  // The reordered copy, then (when summing) the scratch of the reduction.
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// y [.., ranks · n, ..] = the x [.., n, ..] of all ranks in rank order; with parts of any size n_r, y [Σ n_r, ..] of x
// [n_rank, ..].
struct AllGather : AlongDim<Phase::InputGrad> {
  static constexpr std::string_view name = "all_gather";
};
// Several tensors at once, of which x has this rank's parts one after another: y = the first of them whole, then the
// second, …. One collective: the messages of all are under way together. Put into graphs after autodiff.
struct GatherUnits : OpDefaults {
  struct Attrs {
    std::string axis = "shard";
    int ranks = 1;                  // size of the axis
    int rank = 0;                   // in it
    std::vector<JoinedPart> parts;  // the tensors
  };
  static constexpr std::string_view name = "gather_units";
  static constexpr bool update_only = true;
  static constexpr bool collective = true;
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"y", Role::Output}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::vector<Sample<Attrs>> samples();
};

// y [.., n, ..] = this rank's part of Σ_ranks x [.., ranks · n, ..]; sizes as above.
struct ReduceScatter : AlongDim<Phase::Forward> {
  static constexpr std::string_view name = "reduce_scatter";
};
// Several tensors at once, which x has whole one after another: y = this rank's parts of their sums, one after another;
// or, in place, each part at its place in x. The rest of x stays as it is. One collective, as GatherUnits.
struct ReduceUnits : OpDefaults {
  struct Attrs {
    std::string axis = "shard";
    int ranks = 1;                  // size of the axis
    int rank = 0;                   // in it
    std::vector<JoinedPart> parts;  // the tensors
    bool in_place = false;          // there is no y
  };
  static constexpr std::string_view name = "reduce_units";
  static constexpr bool update_only = true;
  static constexpr bool collective = true;
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::State}, Slot{"y", Role::Output, Backward::Ignores, true}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  // The scratch of the reduction.
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
