#pragma once
#include <span>

#include "runtime/ops/op.hpp"
#include "runtime/ops/round_segment.hpp"
#include "runtime/tensor/rank_cuts.hpp"

namespace plimsoll {

// Elements [offset, offset + elements) of a flat buffer, of tensor number `tensor` of the model.
struct Segment {
  std::int64_t offset = 0, elements = 0;
  int tensor = 0;
};

// The squares of a segment are summed over blocks of this many elements; one partial sum each lies in the workspace.
inline constexpr std::int64_t kNormBlockElements = 16384;
std::int64_t norm_blocks(std::span<const Segment> segments);

// sums f64 [tensors]: Σ g² of this rank's segments of each tensor, 0 where it has none; in fp64, in the order of the
// segments. Ranks that share the model add theirs up.
struct SquareSums : OpDefaults {
  struct Attrs {
    std::vector<Segment> segments;
    std::int64_t tensors = 0;
  };
  static constexpr std::string_view name = "square_sums";
  static constexpr bool update_only = true;
  enum : int { kGradients, kSums };
  static constexpr std::array slots{Slot{"gradients", Role::Input}, Slot{"sums", Role::Output}};
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// norm f64 [1] = sqrt(Σ sums) / loss_scale, combined in model order (design §9.8); also left in step_outputs
// (grad_norm, found_inf).
struct GlobalNorm : OpDefaults {
  struct Attrs {};
  static constexpr std::string_view name = "global_norm";
  static constexpr bool update_only = true;
  enum : int { kSums, kNorm };
  static constexpr std::array slots{Slot{"sums", Role::Input}, Slot{"norm", Role::Output}};
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// One AdamW step on flat buffers (Loshchilov & Hutter 2019, as PyTorch: p -= lr · weight_decay · p, then the Adam
// step): g = gradient / loss_scale · min(1, clip / (norm + 1e-6)); nothing happens when step_outputs.found_inf is set.
// Elements of `decays` decay, ranges in order that do not touch; the rest do not. clip = 0: no clipping. Learning rate
// and bias corrections come from step_inputs. Where kernels read parameters in bf16 or f16, `parameters` are the f32
// master copy and `rounded` what they become, to nearest even; it is written only where they are.
struct AdamW : OpDefaults {
  struct Attrs {
    double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, clip = 0;
    std::vector<ElementRange> decays = {};
  };
  static constexpr std::string_view name = "adamw";
  static constexpr bool update_only = true;
  enum : int { kGradients, kNorm, kParameters, kFirst, kSecond, kRounded };
  static constexpr std::array slots{
      Slot{"gradients", Role::Input},  Slot{"norm", Role::Input},
      Slot{"parameters", Role::State}, Slot{"first", Role::State},
      Slot{"second", Role::State},     Slot{"rounded", Role::Output, Backward::Ignores, true},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// SGD with momentum as PyTorch: g += weight_decay · p; m = momentum · m + g (m starts at 0); p -= lr · m, or with
// Nesterov p -= lr · (g + momentum · m). Clipping, scale, found_inf, `decays` and `rounded` as in AdamW.
struct Sgd : OpDefaults {
  struct Attrs {
    double momentum = 0.9, weight_decay = 0, clip = 0;
    bool nesterov = false;
    std::vector<ElementRange> decays = {};
  };
  static constexpr std::string_view name = "sgd";
  static constexpr bool update_only = true;
  enum : int { kGradients, kNorm, kParameters, kMomentum, kRounded };
  static constexpr std::array slots{
      Slot{"gradients", Role::Input},
      Slot{"norm", Role::Input},
      Slot{"parameters", Role::State},
      Slot{"momentum", Role::State, Backward::Ignores, true},  // absent: momentum is 0
      Slot{"rounded", Role::Output, Backward::Ignores, true},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// rounded = weights in bf16, stochastically, at the elements that the segments name; nothing happens when
// step_outputs.found_inf is set. Seed and number of the update come from step_inputs. What the optimizer leaves to it
// instead of writing `rounded` itself.
struct RoundWeights : OpDefaults {
  struct Attrs {
    std::vector<RoundSegment> segments;
  };
  static constexpr std::string_view name = "round_weights";
  static constexpr bool update_only = true;
  enum : int { kWeights, kRounded };
  static constexpr std::array slots{Slot{"weights", Role::Input}, Slot{"rounded", Role::Output}};
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// x [elements] = 0: what no gradient is written to, but is sent with them.
struct Clear : OpDefaults {
  struct Attrs {
    std::int64_t elements = 0;
    DType dtype = DType::f32;
  };
  static constexpr std::string_view name = "clear";
  static constexpr bool update_only = true;
  enum : int { kX };
  static constexpr std::array slots{Slot{"x", Role::Output}};
  static void infer(const Attrs& a, SlotSpecs& s) { s.set(kX, {{a.elements}, a.dtype}); }
  static std::int64_t flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
