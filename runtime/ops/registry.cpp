#include "runtime/ops/registry.hpp"

namespace plimsoll {
namespace {

template <class Op>
constexpr auto again_of() -> Attrs (*)(const Attrs&) {
  if constexpr (Op::again_from >= 0) {
    return [](const Attrs& a) {
      return Attrs(std::in_place_index<op_id<typename Op::Again>>, Op::again(std::get<op_id<Op>>(a)));
    };
  } else {
    return nullptr;
  }
}

DType compute_dtype(std::span<const Slot> slots, const SlotSpecs& specs) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const int slot = static_cast<int>(i);
    if (slots[i].role == Role::Output || slots[i].role == Role::Stat || !specs.has(slot)) continue;
    if (is_floating(specs[slot].dtype)) return specs[slot].dtype;
  }
  return DType::f32;
}

void set_stat_dtypes(std::span<const Slot> slots, SlotSpecs& specs) {
  const DType compute = compute_dtype(slots, specs);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].role == Role::Stat && specs.has(static_cast<int>(i)))
      specs.spec[i].dtype = stat_dtype(slots[i], compute);
  }
}

template <class Op>
OpInfo make_info() {
  static_assert(Op::slots.size() <= kMaxSlots);
  constexpr OpId id = op_id<Op>;
  return {
      id,
      Op::name,
      Op::slots,
      Op::splits_backward,
      Op::terminal,
      Op::inference_only,
      Op::straight_through,
      Op::update_only,
      Op::collective,
      Op::copies,
      [](const Attrs& a, SlotSpecs& s) {
        Op::infer(std::get<id>(a), s);
        set_stat_dtypes(Op::slots, s);
      },
      [](const Attrs& a, const SlotSpecs& s, Phase p) { return Op::flops(std::get<id>(a), s, p); },
      [](const Attrs& a, const SlotSpecs& s, Phase p, int threads) {
        return Op::workspace_bytes(std::get<id>(a), s, p, threads);
      },
      [] {
        std::vector<AnySample> all;
        for (auto& s : Op::samples()) all.push_back({Attrs(std::in_place_index<id>, s.attrs), s.in, s.integer_limit});
        return all;
      },
      Op::again_from,
      again_of<Op>(),
  };
}

template <class... Ops>
std::span<const OpInfo> table(TypeList<Ops...>) {
  static const std::array<OpInfo, sizeof...(Ops)> all{make_info<Ops>()...};
  return all;
}

}  // namespace

std::span<const OpInfo> all_ops() { return table(OpList{}); }

const OpInfo& op_info(OpId id) { return all_ops()[id]; }

const OpInfo& op_info(std::string_view name) {
  for (const OpInfo& op : all_ops()) {
    if (op.name == name) return op;
  }
  fail(ErrorKind::Internal, "no op is named '{}'", name);
}

DType compute_dtype(const OpInfo& op, const SlotSpecs& specs) { return compute_dtype(op.slots, specs); }

}  // namespace plimsoll
