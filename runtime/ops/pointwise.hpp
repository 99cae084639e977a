#pragma once
#include "runtime/ops/activation.hpp"
#include "runtime/ops/op.hpp"

namespace plimsoll {

// y = act(x), elementwise. GELU: Hendrycks & Gimpel 2016, the tanh approximation or exact with erf.
struct Activate : OpDefaults {
  struct Attrs {
    Activation kind = Activation::GeluTanh;
  };
  static constexpr std::string_view name = "activate";
  enum : int { kX, kY };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Reads, false, kY},
      Slot{"y", Role::Output},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y = silu(gate) * up, with x [..., 2f] = [gate | up] and y [..., f] (Shazeer 2020, "GLU Variants Improve
// Transformer").
struct SwiGlu : OpDefaults {
  struct Attrs {};
  static constexpr std::string_view name = "swiglu";
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input, Backward::Reads}, Slot{"y", Role::Output}};
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y = a + b. Both gradients are the gradient of y.
struct Add : OpDefaults {
  struct Attrs {};
  static constexpr std::string_view name = "add";
  enum : int { kA, kB, kY };
  static constexpr std::array slots{
      Slot{"a", Role::Input, Backward::Ignores, false, kY},
      Slot{"b", Role::Input, Backward::Ignores, false, -1, kA},
      Slot{"y", Role::Output, Backward::Ignores, false, kA},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y = factor * x.
struct Scale : OpDefaults {
  struct Attrs {
    double factor = 1;
  };
  static constexpr std::string_view name = "scale";
  enum : int { kX, kY };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Ignores, false, kY},
      Slot{"y", Role::Output, Backward::Ignores, false, kX},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y = x in another floating dtype, rounded to nearest even. The gradient is cast back.
struct Cast : OpDefaults {
  struct Attrs {
    DType to = DType::f32;
  };
  static constexpr std::string_view name = "cast";
  enum : int { kX, kY };
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"y", Role::Output}};
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y = x · mask / (1 - p) (Srivastava et al. 2014). Element e of sample row b is dropped when the 32 bits at index
// (step_inputs.first_sample + b) · elements_per_sample + e of stream (step_inputs.seed, site) are below
// dropout_threshold(p): nothing is saved, backward replays the counter. x [B, ...]: dim 0 is the sample.
struct Dropout : OpDefaults {
  struct Attrs {
    double p = 0.1;
    std::uint64_t site = 0;  // distinguishes the dropouts of a model: stream_id of its place
    // Where dim 1 of x begins in, and how long is, a sequence that is split over ranks; 0: x has all of it.
    std::int64_t first_column = 0, columns = 0;
  };
  static constexpr std::string_view name = "dropout";
  enum : int { kX, kY };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Ignores, false, kY},
      Slot{"y", Role::Output, Backward::Ignores, false, kX},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
