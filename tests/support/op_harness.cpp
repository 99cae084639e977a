#include "tests/support/op_harness.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "launch/allocation_counter.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/device/cpu_stream.hpp"
#include "tests/support/device_copies.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll::test {
namespace {

constexpr std::size_t kGuardBytes = 128;
constexpr std::byte kGuard{0xA5};
constexpr std::byte kUnwritten{0xFF};  // NaN in every floating type

// Memory aligned to 64 bytes that knows when something was written around it.
class Guarded {
 public:
  explicit Guarded(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    storage_.assign(bytes_ + 2 * kGuardBytes + 64, kGuard);
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuardBytes;
    offset_ = kGuardBytes + (64 - address % 64) % 64;
    std::memset(data(), static_cast<int>(kUnwritten), bytes_);
  }
  std::byte* data() { return storage_.data() + offset_; }
  std::vector<std::byte> copy() { return {data(), data() + bytes_}; }
  void assign(const std::vector<std::byte>& from) {
    require(from.size() == bytes_, ErrorKind::Internal, "test data has {} bytes, not {}", from.size(), bytes_);
    std::memcpy(data(), from.data(), from.size());
  }
  bool intact() const {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      if ((i < offset_ || i >= offset_ + bytes_) && storage_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  std::size_t bytes_, offset_ = 0;
  std::vector<std::byte> storage_;
};
using Memory = std::shared_ptr<Guarded>;

template <class T>
void append(std::vector<std::byte>& bytes, double number) {
  T x;
  if constexpr (std::is_class_v<T>)  // 16 and 8 bits
    x = T(static_cast<float>(number));
  else
    x = static_cast<T>(number);
  const auto* raw = reinterpret_cast<const std::byte*>(&x);
  bytes.insert(bytes.end(), raw, raw + sizeof(T));
}

template <class T>
void read_all(const std::vector<std::byte>& bytes, std::vector<double>& numbers) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(T)) {
    T x;
    std::memcpy(&x, bytes.data() + at, sizeof(T));
    if constexpr (std::is_class_v<T>)  // 16 and 8 bits
      numbers.push_back(static_cast<double>(float(x)));
    else
      numbers.push_back(static_cast<double>(x));
  }
}

template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(bf16{});
    case DType::f16: return f(f16{});
    case DType::i32: return f(std::int32_t{});
    case DType::i64: return f(std::int64_t{});
    case DType::u8: return f(std::uint8_t{});
    case DType::f8e4m3: return f(F8E4M3{});
    case DType::f8e5m2: return f(F8E5M2{});
  }
}

// One execution: the buffers of the slots and of their gradients, and the calls on them.
class Execution {
 public:
  Execution(const KernelTable& kernels, const OpCase& c, const OpInputs& in, const OpRun& how, const Group* group)
      : kernels_(kernels), case_(c), in_(in), how_(how), group_(group), step_inputs_(harness_step_inputs()) {}

  OpResult run() {
    forward();
    if (how_.backward) backward();
    return std::move(result_);
  }

 private:
  bool wanted(int s) const { return (how_.without_grad >> s & 1U) == 0; }
  const TensorSpec& spec(int s) const { return case_.specs[s]; }
  TensorSpec gradient(int s) const { return gradient_spec(case_.slot(s), spec(s)); }
  static Memory fresh(const TensorSpec& spec) { return std::make_shared<Guarded>(spec.bytes()); }
  static Memory filled(const TensorSpec& spec, const std::vector<double>& numbers) {
    Memory m = fresh(spec);
    m->assign(to_bytes(numbers, spec.dtype));
    return m;
  }
  static std::size_t at(int s) { return static_cast<std::size_t>(s); }

  void forward() {
    for (int s = 0; s < case_.slots(); ++s) {
      if (!case_.specs.has(s)) continue;
      const Slot& slot = case_.slot(s);
      if (slot.role == Role::Output || slot.role == Role::Stat) {
        const bool over = how_.in_place && slot.role == Role::Output && slot.over >= 0 && spec(slot.over) == spec(s) &&
                          case_.slot(slot.over).backward == Backward::Ignores;
        value_[at(s)] = over ? value_[at(slot.over)] : fresh(spec(s));
      } else {
        value_[at(s)] = filled(spec(s), in_.value[at(s)]);
      }
    }
    std::array<View, kMaxSlots> value{}, grad{};
    for (int s = 0; s < case_.slots(); ++s) {
      if (case_.specs.has(s)) value[at(s)] = {value_[at(s)]->data(), spec(s)};
    }
    call(how_.phase, value, grad, 0);
    for (int s = 0; s < case_.slots(); ++s) {
      const Role role = case_.slot(s).role;
      if (case_.specs.has(s) && (role == Role::Output || role == Role::Stat || role == Role::State))
        result_.value[at(s)] = value_[at(s)]->copy();
    }
  }

  void backward() {
    for (int s = 0; s < case_.slots(); ++s) {
      if (case_.specs.has(s) && case_.slot(s).role == Role::Output && !case_.op->terminal && wanted(s)) {
        grad_[at(s)] = filled(gradient(s), in_.grad[at(s)]);
      }
    }
    for (int s = 0; s < case_.slots(); ++s) {
      const Slot& slot = case_.slot(s);
      const bool stat =
          case_.specs.has(s) && slot.role == Role::Stat && slot.over >= 0 && grad_[at(slot.over)] != nullptr;
      if (!stat && (!gradient_goes_out(case_, s) || !wanted(s))) continue;
      const bool over =
          how_.in_place && slot.over >= 0 && grad_[at(slot.over)] != nullptr && spec(slot.over) == spec(s);
      if (over)
        grad_[at(s)] = grad_[at(slot.over)];
      else
        grad_[at(s)] = how_.accumulate && !stat ? filled(gradient(s), in_.previous[at(s)]) : fresh(gradient(s));
    }
    if (case_.op->terminal) {
      for (int s = 0; s < case_.slots(); ++s) {
        if (case_.slot(s).role != Role::Output) continue;
        value_[at(s)] = how_.accumulate ? filled(spec(s), in_.previous[at(s)]) : fresh(spec(s));
      }
    }
    backward_phase(Phase::InputGrad);
    if (case_.op->splits_backward) backward_phase(Phase::WeightGrad);
    for (int s = 0; s < case_.slots(); ++s) {
      if (gradient_goes_out(case_, s) && wanted(s)) result_.grad[at(s)] = grad_[at(s)]->copy();
      const bool made_here = case_.op->terminal && case_.slot(s).role == Role::Output;
      if (case_.specs.has(s) && (made_here || case_.slot(s).role == Role::State))
        result_.value[at(s)] = value_[at(s)]->copy();
    }
  }

  // Which gradients a phase gets: those that come in or go out in it.
  bool has_gradient(int s, Phase phase) const {
    const Slot& slot = case_.slot(s);
    if (grad_[at(s)] == nullptr) return false;
    if (!case_.op->splits_backward) return slot.role != Role::Stat;
    if (slot.role == Role::Input) return phase == Phase::InputGrad;
    if (slot.role == Role::Param) return phase == Phase::WeightGrad;
    if (slot.role == Role::Stat || phase == Phase::InputGrad) return true;
    for (int other = 0; other < case_.slots(); ++other) {
      if (case_.slot(other).role == Role::Stat && case_.slot(other).over == s && case_.specs.has(other)) return false;
    }
    return true;
  }

  void backward_phase(Phase phase) {
    std::array<View, kMaxSlots> value{}, grad{};
    std::uint32_t accumulate = 0;
    std::vector<Memory> poison;
    for (int s = 0; s < case_.slots(); ++s) {
      if (!case_.specs.has(s)) continue;
      const Slot& slot = case_.slot(s);
      if (reads_in(slot.backward, phase) || (case_.op->terminal && slot.role == Role::Output)) {
        value[at(s)] = {value_[at(s)]->data(), spec(s)};
      } else if (how_.poison) {
        poison.push_back(fresh(spec(s)));
        value[at(s)] = {poison.back()->data(), spec(s)};
      }
      if (has_gradient(s, phase)) grad[at(s)] = {grad_[at(s)]->data(), gradient(s)};
      const bool adds =
          (gradient_goes_out(case_, s) && grad[at(s)]) || (case_.op->terminal && slot.role == Role::Output);
      if (how_.accumulate && adds) accumulate |= 1U << s;
    }
    call(phase, value, grad, accumulate);
    for (const Memory& m : poison) {
      EXPECT_EQ(m->copy(), std::vector<std::byte>(m->copy().size(), kUnwritten)) << "an undeclared value was written";
    }
  }

  void call(Phase phase, const std::array<View, kMaxSlots>& value, const std::array<View, kMaxSlots>& grad,
            std::uint32_t accumulate) {
    const Kernel kernel = kernels_.find(case_.op->id, phase, case_.dtype());
    ASSERT_NE(kernel, nullptr) << case_.text() << " has no kernel for " << phase_name(phase);
    const std::int64_t scratch = case_.op->workspace_bytes(case_.attrs, case_.specs, phase, how_.threads);
    Guarded workspace(scratch);
    KernelArgs args;
    args.value = value.data();
    args.grad = grad.data();
    args.accumulate = accumulate;
    args.attributes = &case_.attrs;
    args.workspace = workspace.data();
    args.threads = how_.threads;
    args.inputs = &step_inputs_;
    args.outputs = &step_outputs_;
    args.group = group_;
    args.stream = host_stream_.get();
    begin_counted_region();
    if (how_.device != nullptr)
      run_on_device(kernel, args, scratch);
    else
      kernel(args);
    end_counted_region();
    EXPECT_TRUE(workspace.intact()) << case_.text() << " " << phase_name(phase) << " writes outside its workspace";
    for (int s = 0; s < case_.slots(); ++s) {
      for (const Memory& m : {value_[at(s)], grad_[at(s)]}) {
        EXPECT_TRUE(m == nullptr || m->intact())
            << case_.text() << " " << phase_name(phase) << " writes outside of " << case_.slot(s).name;
      }
    }
  }

  // The same call on copies of all buffers and their guards.
  void run_on_device(Kernel kernel, KernelArgs args, std::int64_t scratch) {
    constexpr auto kAround = static_cast<std::int64_t>(kGuardBytes);
    DeviceCopies copies(*how_.device);
    std::array<View, kMaxSlots> value{}, grad{};
    for (int s = 0; s < case_.slots(); ++s) {
      value[at(s)] = {copies.add(args.value[s].data, args.value[s].spec.bytes(), kAround), args.value[s].spec};
      grad[at(s)] = {copies.add(args.grad[s].data, args.grad[s].spec.bytes(), kAround), args.grad[s].spec};
    }
    args.value = value.data();
    args.grad = grad.data();
    args.workspace = static_cast<std::byte*>(copies.add(args.workspace, scratch, kAround));
    args.inputs = static_cast<const StepInputs*>(copies.add(&step_inputs_, sizeof step_inputs_, 0));
    args.outputs = static_cast<StepOutputs*>(copies.add(&step_outputs_, sizeof step_outputs_, 0));
    const auto stream = how_.device->make_stream(StreamKind::Compute);
    args.stream = stream.get();
    kernel(args);
    stream->synchronize();
    copies.bring_back();
  }

  const std::unique_ptr<Stream> host_stream_ = make_inline_stream();
  const KernelTable& kernels_;
  const OpCase& case_;
  const OpInputs& in_;
  const OpRun& how_;
  const Group* group_;
  StepInputs step_inputs_;
  StepOutputs step_outputs_;
  std::array<Memory, kMaxSlots> value_, grad_;
  OpResult result_;
};

std::vector<double> random_floats(std::uint64_t seed, std::string_view what, std::int64_t n) {
  const RandomStream stream(seed, what);
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < n; ++i) {
    numbers.push_back(static_cast<float>(3 * stream.uniform(static_cast<std::uint64_t>(i)) - 1.5));
  }
  return numbers;
}

// Integers below the limit. Every fifth target is -1 (ignored); segment ids rise along a row, as packed documents do.
std::vector<double> random_integers(const OpCase& c, int s, std::uint64_t seed) {
  const RandomStream stream(seed, c.slot(s).name);
  const auto limit = static_cast<std::uint64_t>(std::max<std::int64_t>(c.integer_limit, 1));
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < c.specs[s].elements(); ++i) {
    const std::uint64_t drawn = stream.bits(static_cast<std::uint64_t>(i)) % limit;
    double number = static_cast<double>(drawn);
    if (c.slot(s).name == "targets" && i % 5 == 3) number = -1;
    const std::int64_t segment = i % c.specs[s].last() / 3;
    if (c.slot(s).name == "segments") number = static_cast<double>(segment);
    numbers.push_back(number);
  }
  return numbers;
}

OpInputs rank_inputs(const OpCase& c, std::uint64_t seed) {
  OpInputs in;
  for (int s = 0; s < c.slots(); ++s) {
    if (!c.specs.has(s)) continue;
    const auto at = static_cast<std::size_t>(s);
    const std::string name(c.slot(s).name);
    const std::int64_t n = c.specs[s].elements();
    if (!is_floating(c.specs[s].dtype)) {
      in.value[at] = random_integers(c, s, seed);
      continue;
    }
    in.value[at] = random_floats(seed, name, n);
    in.grad[at] = random_floats(seed, fmt::format("gradient of {}", name), n);
    in.previous[at] = random_floats(seed, fmt::format("previous {}", name), n);
  }
  return in;
}

}  // namespace

int OpCase::ranks() const {
  if (!op->collective) return 1;
  return std::visit(
      [](const auto& a) {
        if constexpr (requires { a.ranks; })
          return a.ranks;
        else
          return 1;
      },
      attrs);
}

std::string OpCase::text() const {
  std::string list;
  for (int s = 0; s < slots(); ++s) {
    const Role role = slot(s).role;
    if (!specs.has(s) || role == Role::Output || role == Role::Stat) continue;
    list += fmt::format("{}{}", list.empty() ? "" : ", ", to_string(specs[s]));
  }
  return fmt::format("{}({})", op->name, list);
}

std::vector<OpCase> op_cases(const OpInfo& op, DType dtype) {
  std::vector<OpCase> cases;
  for (const AnySample& sample : op.samples()) {
    OpCase c{&op, sample.attrs, sample.in, sample.integer_limit};
    for (TensorSpec& spec : c.specs.spec) {
      if (spec.dtype == DType::f64) spec.dtype = dtype;
    }
    if (auto* cast = std::get_if<op_id<Cast>>(&c.attrs); cast != nullptr && cast->to == DType::f64) cast->to = dtype;
    op.infer(c.attrs, c.specs);
    cases.push_back(std::move(c));
  }
  return cases;
}

OpInputs random_inputs(const OpCase& c, std::uint64_t seed) {
  OpInputs in = rank_inputs(c, seed);
  for (int rank = 1; rank < c.ranks(); ++rank) {
    OpInputs& other = in.others.emplace_back(rank_inputs(c, seed + 100 * static_cast<std::uint64_t>(rank)));
    for (int s = 0; s < c.slots(); ++s) {
      if (!same_on_all_ranks(c, s)) continue;
      other.value[static_cast<std::size_t>(s)] = in.value[static_cast<std::size_t>(s)];
      other.grad[static_cast<std::size_t>(s)] = in.grad[static_cast<std::size_t>(s)];
    }
  }
  return in;
}

StepInputs harness_step_inputs() {
  StepInputs step;
  step.seed = 7;
  step.first_sample = 3;
  step.position = 2;
  step.loss_seed = 0.37;
  return step;
}

OpResult run_op(const KernelTable& kernels, const OpCase& c, const OpInputs& in, const OpRun& how) {
  if (!c.op->collective) return Execution(kernels, c, in, how, nullptr).run();
  std::vector<OpResult> results(static_cast<std::size_t>(c.ranks()));
  const auto faults = on_ranks(c.ranks(), [&](const Group& group) {
    const auto rank = static_cast<std::size_t>(group.rank());
    results[rank] = Execution(kernels, c, rank == 0 ? in : in.others[rank - 1], how, &group).run();
    return std::string();
  });
  for (const std::string& fault : faults) EXPECT_EQ(fault, "") << c.text();
  OpResult all = std::move(results.front());
  all.others.assign(std::make_move_iterator(results.begin() + 1), std::make_move_iterator(results.end()));
  return all;
}

std::vector<double> to_numbers(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<double> numbers;
  with_type(dtype, [&](auto zero) { read_all<decltype(zero)>(bytes, numbers); });
  return numbers;
}

std::vector<std::byte> to_bytes(const std::vector<double>& numbers, DType dtype) {
  std::vector<std::byte> bytes;
  with_type(dtype, [&](auto zero) {
    for (const double number : numbers) append<decltype(zero)>(bytes, number);
  });
  return bytes;
}

bool gradient_goes_out(const OpCase& c, int s) {
  const Slot& slot = c.slot(s);
  return c.specs.has(s) && (slot.role == Role::Input || slot.role == Role::Param) && slot.same_gradient < 0 &&
         is_floating(c.specs[s].dtype) && !is_fp8(c.specs[s].dtype);
}

bool same_on_all_ranks(const OpCase& c, int s) {
  return (c.op->id == op_id<CopyTo> && s == CopyTo::kX) || (c.op->id == op_id<ReduceFrom> && s == ReduceFrom::kY);
}

}  // namespace plimsoll::test
