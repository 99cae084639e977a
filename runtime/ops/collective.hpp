#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// Collectives are ops over a mesh axis. Sums are made by the owner of an element in rank order (design §9.8). In
// backward a collective becomes its conjugate: all_gather ↔ reduce_scatter.

// x = Σ_ranks x, in place: parameter gradients, losses. `scratch` (u8): what the reduction receives before it is
// summed; the all-reduces of a program run one after another and share it.
struct AllReduce : OpDefaults {
  struct Attrs {
    std::string axis = "data";
    int ranks = 1;  // size of the axis
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

// y [ranks · n, …] = the x [n, …] of all ranks in rank order.
struct AllGather : OpDefaults {
  struct Attrs {
    std::string axis = "tensor";
    int ranks = 1;
  };
  static constexpr std::string_view name = "all_gather";
  static constexpr bool collective = true;
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"y", Role::Output}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::vector<Sample<Attrs>> samples();
};

// y [n, …] = this rank's part of Σ_ranks x [ranks · n, …].
struct ReduceScatter : OpDefaults {
  struct Attrs {
    std::string axis = "tensor";
    int ranks = 1;
  };
  static constexpr std::string_view name = "reduce_scatter";
  static constexpr bool collective = true;
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"y", Role::Output}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
