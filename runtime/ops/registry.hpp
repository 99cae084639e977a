#pragma once
// The list of all ops, and their declarations with the type erased. Adding an op means adding one entry to OpList.

#include <span>
#include <variant>

#include "runtime/ops/attention.hpp"
#include "runtime/ops/collective.hpp"
#include "runtime/ops/copy.hpp"
#include "runtime/ops/cross_entropy.hpp"
#include "runtime/ops/embedding.hpp"
#include "runtime/ops/fp8.hpp"
#include "runtime/ops/linear.hpp"
#include "runtime/ops/norm.hpp"
#include "runtime/ops/pointwise.hpp"
#include "runtime/ops/update.hpp"

namespace plimsoll {

template <class... Ops>
struct TypeList {};

using OpList =
    TypeList<Linear, Attention, CachedAttention, Rope, LayerNorm, RmsNorm, AddLayerNorm, AddRmsNorm, HeadNorm, Activate,
             SwiGlu, Add, Scale, Cast, Dropout, Embedding, AddRows, CrossEntropy, AllReduce, CopyTo, ReduceFrom,
             AllGather, GatherUnits, ReduceScatter, ReduceUnits, SquareSums, GlobalNorm, AdamW, Sgd, RoundWeights,
             Clear, ToHost, FromHost, QuantizeFp8, LinearFp8, UpdateFp8Scales>;

template <class List>
struct AttrsOf;
template <class... Ops>
struct AttrsOf<TypeList<Ops...>> {
  using type = std::variant<typename Ops::Attrs...>;
};
using Attrs = AttrsOf<OpList>::type;

// Index of an op in OpList; also the index of its alternative in Attrs.
using OpId = std::uint16_t;
template <class Op, class List>
struct IndexOf;
template <class Op, class... Rest>
struct IndexOf<Op, TypeList<Op, Rest...>> {
  static constexpr OpId value = 0;
};
template <class Op, class First, class... Rest>
struct IndexOf<Op, TypeList<First, Rest...>> {
  static constexpr OpId value = static_cast<OpId>(1 + IndexOf<Op, TypeList<Rest...>>::value);
};
template <class Op>
inline constexpr OpId op_id = IndexOf<Op, OpList>::value;

struct AnySample {
  Attrs attrs;
  SlotSpecs in;
  std::int64_t integer_limit = 0;
};

// An op's declaration with the type erased; the flags are those of OpDefaults.
struct OpInfo {
  OpId id;
  std::string_view name;
  std::span<const Slot> slots;
  bool splits_backward, terminal, inference_only, straight_through, update_only, collective, copies;
  void (*infer)(const Attrs&, SlotSpecs&);  // as the op's, with the dtypes that Stats have
  std::int64_t (*flops)(const Attrs&, const SlotSpecs&, Phase);
  std::int64_t (*workspace_bytes)(const Attrs&, const SlotSpecs&, Phase, int threads);
  std::vector<AnySample> (*samples)();
  int again_from;                // slot; -1: there is no other op that makes outputs again
  Attrs (*again)(const Attrs&);  // the attributes of the op, whose id is their index; null where there is none
  bool differentiable() const { return !inference_only && !straight_through && !update_only && !copies; }
};

std::span<const OpInfo> all_ops();
const OpInfo& op_info(OpId id);
const OpInfo& op_info(std::string_view name);  // throws Error(Internal) when there is none

// The dtype whose kernel runs a node: of its first floating Input, Param or State slot.
DType compute_dtype(const OpInfo& op, const SlotSpecs& specs);

}  // namespace plimsoll
