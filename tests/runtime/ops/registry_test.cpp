// What every declared op must satisfy on every sample of its declaration. A new op is covered by being in OpList.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "comm/collective_kernels.hpp"
#include "kernels/cpu/register.hpp"
#include "tests/support/op_harness.hpp"

namespace plimsoll {
namespace {

using namespace test;

std::vector<std::string> names_of(bool differentiated) {
  std::vector<std::string> names;
  for (const OpInfo& op : all_ops()) {
    if (op.differentiable() == differentiated) names.emplace_back(op.name);
  }
  return names;
}

TEST(Registry, ExemptOpsAreTheseAndHaveTestsOfTheirOwn) {
  const std::vector<std::string> expected{
      "cached_attention", "all_reduce", "gather_units", "reduce_units",     "square_sums",
      "global_norm",      "adamw",      "sgd",          "round_weights",    "clear",
      "to_host",          "from_host",  "quantize_fp8", "update_fp8_scales"};
  EXPECT_EQ(names_of(false), expected);
}

TEST(Registry, NamesAndIdsAreUnique) {
  std::set<std::string_view> names;
  for (const OpInfo& op : all_ops()) {
    EXPECT_TRUE(names.insert(op.name).second) << op.name;
    EXPECT_EQ(&op_info(op.id), &op);
    EXPECT_EQ(&op_info(op.name), &op);
  }
  EXPECT_THROW(op_info("no_such_op"), Error);
}

TEST(Registry, DeclarationsAreConsistent) {
  for (const OpInfo& op : all_ops()) {
    SCOPED_TRACE(op.name);
    for (const Slot& slot : op.slots) {
      const auto role = [&](int s) { return op.slots[static_cast<std::size_t>(s)].role; };
      if (slot.over >= 0 && slot.role == Role::Output) {
        EXPECT_EQ(role(slot.over), Role::Input) << slot.name;
      }
      if (slot.over >= 0 && slot.role != Role::Output) {
        EXPECT_EQ(role(slot.over), Role::Output) << slot.name;
      }
      if (slot.same_gradient >= 0) {
        EXPECT_EQ(role(slot.same_gradient), Role::Input) << slot.name;
      }
    }
    EXPECT_FALSE(op.samples().empty());
  }
}

// Only what an op fixes itself (a cast's result, sums in f64, integers, fp8 and its scales) may differ from what roles
// say.
TEST(Registry, DtypesFollowFromRoles) {
  for (const OpInfo& op : all_ops()) {
    if (!op.differentiable() || op.id == op_id<Cast>) continue;
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
      const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
      for (const OpCase& c : op_cases(op, dtype)) {
        SCOPED_TRACE(c.text());
        EXPECT_EQ(c.dtype(), dtype);
        for (int s = 0; s < c.slots(); ++s) {
          if (!c.specs.has(s) || !is_floating(c.specs[s].dtype) || is_fp8(c.specs[s].dtype)) continue;
          const Slot& slot = c.slot(s);
          if (op.id == op_id<LinearFp8> && slot.role == Role::State) continue;
          const bool sum = op.terminal && slot.role == Role::Output;
          const bool widened = slot.role == Role::Stat && slot.over < 0;
          EXPECT_EQ(c.specs[s].dtype, sum ? DType::f64 : widened ? wide : dtype) << slot.name;
          EXPECT_EQ(gradient_spec(slot, c.specs[s]).dtype, slot.role == Role::Param ? wide : c.specs[s].dtype);
        }
      }
    }
  }
}

// f(x) for the inputs or results of all ranks.
template <class X, class F>
void for_ranks(X& x, const F& f) {
  f(x);
  for (X& other : x.others) f(other);
}

class EveryOp : public ::testing::TestWithParam<std::string> {
 protected:
  // Calls check(case, inputs) for every sample.
  template <class F>
  void for_samples(DType dtype, F&& check) {
    for (const OpCase& c : op_cases(op_, dtype)) {
      SCOPED_TRACE(c.text());
      check(c, random_inputs(c, 1));
    }
  }
  // Both results bit for bit.
  static void expect_same(const OpCase& c, const OpResult& a, const OpResult& b) {
    for (int s = 0; s < c.slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      EXPECT_TRUE(a.value[at] == b.value[at]) << "value of " << c.slot(s).name;
      EXPECT_TRUE(a.grad[at] == b.grad[at]) << "gradient of " << c.slot(s).name;
    }
    ASSERT_EQ(a.others.size(), b.others.size());
    for (std::size_t r = 0; r < a.others.size(); ++r) expect_same(c, a.others[r], b.others[r]);
  }
  // |a - b| ≤ tolerance · max(1, largest |b|)
  static void expect_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance,
                          const std::string& what) {
    ASSERT_EQ(a.size(), b.size()) << what;
    double scale = 1;
    for (const double x : b) scale = std::max(scale, std::fabs(x));
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance * scale) << what << " at " << i;
  }
  // Casts that round have no useful difference quotient.
  static bool all_double(const OpCase& c) {
    for (int s = 0; s < c.slots(); ++s) {
      if (c.specs.has(s) && is_floating(c.specs[s].dtype) && c.specs[s].dtype != DType::f64) return false;
    }
    return true;
  }

  const OpInfo& op_ = op_info(GetParam());
  const KernelTable kernels_ = [] {
    KernelTable kernels = cpu_kernels();
    add_collective_kernels(kernels);
    return kernels;
  }();
};

double rank_functional(const OpCase& c, const OpInputs& in, const OpResult& r) {
  double sum = 0;
  for (int s = 0; s < c.slots(); ++s) {
    if (!c.specs.has(s) || c.slot(s).role != Role::Output) continue;
    const auto at = static_cast<std::size_t>(s);
    const std::vector<double> y = to_numbers(r.value[at], c.specs[s].dtype);
    if (c.op->terminal) return harness_step_inputs().loss_seed * y[0];
    for (std::size_t i = 0; i < y.size(); ++i) sum += in.grad[at][i] * y[i];
  }
  return sum;
}

bool same_outputs(const OpCase& c) {
  for (int s = 0; s < c.slots(); ++s) {
    if (c.slot(s).role == Role::Output && same_on_all_ranks(c, s)) return true;
  }
  return false;
}

// The linear functional of all outputs whose gradient the kernels are asked for: of all ranks, unless they are the
// same.
double functional(const KernelTable& kernels, const OpCase& c, const OpInputs& in) {
  const OpResult r = run_op(kernels, c, in, {.backward = false});
  double sum = rank_functional(c, in, r);
  for (std::size_t k = 0; k < r.others.size() && !same_outputs(c); ++k) {
    sum += rank_functional(c, in.others[k], r.others[k]);
  }
  return sum;
}

// What a declaration offers for outputs that are needed a second time makes the bits of the first.
TEST_P(EveryOp, MakesTheSameBitsAgain) {
  if (op_.again == nullptr) return;
  int checked = 0;
  for (const DType dtype : {DType::f32, DType::f64}) {
    for_samples(dtype, [&](const OpCase& c, const OpInputs& in) {
      if (!c.specs.has(op_.again_from)) return;
      OpRun how{.backward = false};
      const OpResult once = run_op(kernels_, c, in, how);
      OpCase other{nullptr, op_.again(c.attrs), {}, 0};
      other.op = &op_info(static_cast<OpId>(other.attrs.index()));
      OpInputs inputs;
      const auto same_slot = [&](int s) {
        if (other.slot(s).name == "x") return op_.again_from;
        int found = 0;
        while (c.slot(found).name != other.slot(s).name) ++found;
        return found;
      };
      for (int s = 0; s < other.slots(); ++s) {
        const int from = same_slot(s);
        if (!c.specs.has(from)) continue;
        other.specs.set(s, c.specs[from]);
        inputs.value[static_cast<std::size_t>(s)] =
            from == op_.again_from ? to_numbers(once.value[static_cast<std::size_t>(from)], c.specs[from].dtype)
                                   : in.value[static_cast<std::size_t>(from)];
      }
      for (const int threads : {1, 3}) {
        how.threads = threads;
        const OpResult again = run_op(kernels_, other, inputs, how);
        for (int s = 0; s < other.slots(); ++s) {
          const Role role = other.slot(s).role;
          if (role != Role::Output && role != Role::Stat) continue;
          EXPECT_EQ(again.value[static_cast<std::size_t>(s)], once.value[static_cast<std::size_t>(same_slot(s))])
              << other.slot(s).name;
          ++checked;
        }
      }
    });
  }
  EXPECT_GT(checked, 0);
}

TEST_P(EveryOp, GradientsAreDifferenceQuotients) {
  constexpr double kStep = 1e-5;
  constexpr std::size_t kElements = 41;  // of each slot, evenly spread
  for_samples(DType::f64, [&](const OpCase& c, const OpInputs& in) {
    if (!all_double(c)) return;
    const OpResult result = run_op(kernels_, c, in, {});
    for (int s = 0; s < c.slots(); ++s) {
      const Slot& slot = c.slot(s);
      const int source = slot.same_gradient >= 0 ? slot.same_gradient : s;
      if (!c.specs.has(s) || !gradient_goes_out(c, source)) continue;
      if (slot.role != Role::Input && slot.role != Role::Param) continue;
      const std::vector<double> grad = to_numbers(result.grad[static_cast<std::size_t>(source)], DType::f64);
      double scale = 1;
      for (const double g : grad) scale = std::max(scale, std::fabs(g));
      OpInputs moved = in;
      const std::vector<double>& x = in.value[static_cast<std::size_t>(s)];
      const auto set = [&](std::size_t i, double number) {
        moved.value[static_cast<std::size_t>(s)][i] = number;
        for (OpInputs& other : moved.others) {
          if (same_on_all_ranks(c, s)) other.value[static_cast<std::size_t>(s)][i] = number;
        }
      };
      const std::size_t stride = std::max<std::size_t>(1, x.size() / kElements);
      for (std::size_t i = 0; i < x.size(); i += stride) {
        set(i, x[i] + kStep);
        const double up = functional(kernels_, c, moved);
        set(i, x[i] - kStep);
        const double down = functional(kernels_, c, moved);
        set(i, x[i]);
        ASSERT_NEAR(grad[i], (up - down) / (2 * kStep), 2e-6 * scale) << slot.name << " at " << i;
      }
    }
  });
}

TEST_P(EveryOp, UndeclaredValuesAreNotRead) {
  for_samples(DType::f64, [&](const OpCase& c, const OpInputs& in) {
    expect_same(c, run_op(kernels_, c, in, {.poison = true}), run_op(kernels_, c, in, {}));
  });
}

TEST_P(EveryOp, EverythingIsWritten) {
  for_samples(DType::f32, [&](const OpCase& c, const OpInputs& in) {
    const OpResult r = run_op(kernels_, c, in, {});
    for (int s = 0; s < c.slots(); ++s) {
      for (const auto& bytes : {r.value[static_cast<std::size_t>(s)], r.grad[static_cast<std::size_t>(s)]}) {
        const std::vector<double> numbers = to_numbers(bytes, c.specs[s].dtype);
        EXPECT_TRUE(std::none_of(numbers.begin(), numbers.end(), [](double x) { return std::isnan(x); }))
            << c.slot(s).name;
      }
    }
  });
}

TEST_P(EveryOp, AccumulationAddsToWhatWasThere) {
  if (op_.collective) GTEST_SKIP() << "gradients of collectives are overwritten";
  for_samples(DType::f64, [&](const OpCase& c, const OpInputs& in) {
    const OpResult fresh = run_op(kernels_, c, in, {}), added = run_op(kernels_, c, in, {.accumulate = true});
    const auto compare = [&](int s, const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
      const auto at = static_cast<std::size_t>(s);
      std::vector<double> expected = to_numbers(b, c.specs[s].dtype);
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += in.previous[at][i];
      const double unit = c.specs[s].dtype == DType::f64 ? 1e-12 : c.specs[s].dtype == DType::f32 ? 1e-6 : 1e-2;
      expect_near(to_numbers(a, c.specs[s].dtype), expected, unit, std::string(c.slot(s).name));
    };
    for (int s = 0; s < c.slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      if (!fresh.grad[at].empty()) compare(s, added.grad[at], fresh.grad[at]);
      if (c.op->terminal && c.slot(s).role == Role::Output) compare(s, added.value[at], fresh.value[at]);
    }
  });
}

TEST_P(EveryOp, SinglePrecisionAgreesWithDouble) {
  const std::vector<OpCase> doubles = op_cases(op_, DType::f64), singles = op_cases(op_, DType::f32);
  for (std::size_t k = 0; k < doubles.size(); ++k) {
    const OpCase &d = doubles[k], &f = singles[k];
    SCOPED_TRACE(f.text());
    const OpInputs in = random_inputs(d, 1);
    const OpResult exact = run_op(kernels_, d, in, {}), rounded = run_op(kernels_, f, in, {});
    for (int s = 0; s < d.slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      const std::string name(d.slot(s).name);
      if (!d.specs.has(s)) continue;
      const auto expect = [&](const std::vector<std::byte>& a, const std::vector<std::byte>& b,
                              const std::string& what) {
        expect_near(to_numbers(a, f.specs[s].dtype), to_numbers(b, d.specs[s].dtype), 1e-5, what);
      };
      expect(rounded.value[at], exact.value[at], name);
      expect(rounded.grad[at], exact.grad[at], fmt::format("gradient of {}", name));
    }
  }
}

TEST_P(EveryOp, BitsDoNotDependOnThreads) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for_samples(dtype, [&](const OpCase& c, const OpInputs& in) {
      const OpResult one = run_op(kernels_, c, in, {});
      for (const int threads : {2, 3}) expect_same(c, run_op(kernels_, c, in, {.threads = threads}), one);
    });
  }
}

TEST_P(EveryOp, InPlaceGivesTheSameBits) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for_samples(dtype, [&](const OpCase& c, const OpInputs& in) {
      expect_same(c, run_op(kernels_, c, in, {.threads = 2, .in_place = true}), run_op(kernels_, c, in, {}));
    });
  }
}

// A gradient that nobody wants changes no other.
TEST_P(EveryOp, UnwantedGradientsAreLeftOut) {
  for_samples(DType::f64, [&](const OpCase& c, const OpInputs& in) {
    const OpResult all = run_op(kernels_, c, in, {});
    for (int s = 0; s < c.slots(); ++s) {
      if (!gradient_goes_out(c, s)) continue;
      OpResult expected = all;
      for_ranks(expected, [&](OpResult& r) { r.grad[static_cast<std::size_t>(s)].clear(); });
      expect_same(c, run_op(kernels_, c, in, {.without_grad = 1U << s}), expected);
    }
  });
}

// A missing incoming gradient is zero.
TEST_P(EveryOp, MissingGradientsAreZero) {
  for_samples(DType::f64, [&](const OpCase& c, const OpInputs& in) {
    if (c.op->terminal) return;
    for (int s = 0; s < c.slots(); ++s) {
      if (!c.specs.has(s) || c.slot(s).role != Role::Output) continue;
      OpInputs zero = in;
      for_ranks(zero, [&](OpInputs& i) {
        for (double& g : i.grad[static_cast<std::size_t>(s)]) g = 0;
      });
      for (const bool accumulate : {false, true}) {
        const OpResult missing = run_op(kernels_, c, in, {.accumulate = accumulate, .without_grad = 1U << s});
        const OpResult given = run_op(kernels_, c, zero, {.accumulate = accumulate});
        for (int g = 0; g < c.slots(); ++g) {
          const auto at = static_cast<std::size_t>(g);
          expect_near(to_numbers(missing.grad[at], c.specs[g].dtype), to_numbers(given.grad[at], c.specs[g].dtype),
                      1e-12, fmt::format("gradient of {} without {}", c.slot(g).name, c.slot(s).name));
        }
      }
    }
  });
}

TEST_P(EveryOp, CostsAreDeclared) {
  for_samples(DType::f32, [&](const OpCase& c, const OpInputs&) {
    const auto flops = [&](Phase phase) { return op_.flops(c.attrs, c.specs, phase); };
    const std::set<std::string_view> free_forward{"cast", "embedding"}, free_backward{"cast", "add"};
    if (!op_.collective && !free_forward.contains(op_.name)) {
      EXPECT_GT(flops(Phase::Forward), 0);
    }
    if (!op_.collective && !free_backward.contains(op_.name)) {
      EXPECT_GT(flops(Phase::InputGrad), 0);
    }
    if (op_.splits_backward) {
      EXPECT_GT(flops(Phase::WeightGrad), 0);
    }
    if (!op_.splits_backward) {
      EXPECT_EQ(flops(Phase::WeightGrad), 0);
    }
    EXPECT_EQ(flops(Phase::Update), 0);
    for (const Phase phase : {Phase::Forward, Phase::InputGrad}) {
      for (const int threads : {1, 64}) EXPECT_GE(op_.workspace_bytes(c.attrs, c.specs, phase, threads), 0);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Cpu, EveryOp, ::testing::ValuesIn(names_of(true)),
                         [](const ::testing::TestParamInfo<std::string>& p) { return p.param; });

}  // namespace
}  // namespace plimsoll
