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
      Op::update_only,
      Op::collective,
      Op::copies,
      [](const Attrs& a, SlotSpecs& s) { Op::infer(std::get<id>(a), s); },
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

DType compute_dtype(const OpInfo& op, const SlotSpecs& specs) {
  for (int i = 0; i < static_cast<int>(op.slots.size()); ++i) {
    const Role role = op.slots[static_cast<std::size_t>(i)].role;
    if (role == Role::Output || role == Role::Stat || !specs.has(i)) continue;
    if (is_floating(specs[i].dtype)) return specs[i].dtype;
  }
  return DType::f32;
}

}  // namespace plimsoll
