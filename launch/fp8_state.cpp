#include "launch/fp8_state.hpp"

#include <algorithm>

#include "comm/group.hpp"
#include "optim/fp8.hpp"
#include "runtime/model/transformer.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kEach = 1 + kFp8History;  // numbers of a tensor

// Of the whole model, whatever part of it a rank has.
Shape state_shape(const ModelConfig& model) {
  ModelShape shape{1, 1, Head::Hidden};
  shape.fp8 = true;
  const std::int64_t linears = std::ssize(fp8_linears(build_transformer(model, shape)));
  return {model.layers, linears / model.layers, kFp8Roles, kEach};
}

bool uses_fp8(const Engine& engine) {
  return engine.programs().has("train") && engine.programs().graph("train").named.contains(kFp8Scaling);
}

// The two buffers of this rank, on the host.
struct Buffers {
  std::vector<Fp8Linear> linears;
  std::vector<Fp8Scaling> scaling;
  std::vector<float> history;
};

std::byte* in_arena(Engine& engine, std::string_view region) {
  return engine.arena().base() + engine.programs().plan.region(region).offset;
}

template <class T>
std::int64_t bytes_of(const std::vector<T>& buffer) {
  return static_cast<std::int64_t>(buffer.size() * sizeof(T));
}

Buffers read_buffers(Engine& engine) {
  Buffers b;
  b.linears = fp8_linears(engine.programs().graph("train"));
  b.scaling.resize(b.linears.size());
  b.history.resize(b.linears.size() * kFp8Roles * kFp8History);
  engine.device().copy_to_host(b.scaling.data(), in_arena(engine, kFp8Scaling), bytes_of(b.scaling));
  engine.device().copy_to_host(b.history.data(), in_arena(engine, kFp8HistoryName), bytes_of(b.history));
  return b;
}

// visit(scale, history, where they are in the tensor of the state) for every tensor of every linear of this rank.
template <class Visit>
void for_each_tensor(Buffers& b, const Shape& shape, const Visit& visit) {
  for (std::size_t i = 0; i < b.linears.size(); ++i) {
    const std::int64_t row = b.linears[i].layer * shape[1] + b.linears[i].index;
    for (std::size_t role = 0; role < kFp8Roles; ++role) {
      visit(b.scaling[i].scale[role], &b.history[(i * kFp8Roles + role) * kFp8History],
            static_cast<std::size_t>((row * kFp8Roles + static_cast<std::int64_t>(role)) * kEach));
    }
  }
}

}  // namespace

std::optional<Fp8State> gather_fp8_state(Engine& engine, const ModelConfig& model, const Group& world) {
  if (!uses_fp8(engine)) return std::nullopt;
  Fp8State state{state_shape(model), {}};
  state.numbers.assign(static_cast<std::size_t>(state.shape.elements()), 0.0F);
  Buffers buffers = read_buffers(engine);
  for_each_tensor(buffers, state.shape, [&](float scale, const float* history, std::size_t at) {
    state.numbers[at] = scale;
    std::copy_n(history, kFp8History, &state.numbers[at + 1]);
  });
  if (world.size() > 1) {
    // All that have a linear have the same of it; none is below zero.
    std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(world.size())));
    world.all_reduce({state.numbers.data(), {{state.shape.elements()}, DType::f32}}, ReduceOp::Max, scratch.data());
  }
  return state;
}

void forget_fp8_maximums(Engine& engine) {
  if (!uses_fp8(engine)) return;
  Buffers buffers = read_buffers(engine);
  for (Fp8Scaling& linear : buffers.scaling) std::fill_n(linear.amax, kFp8Roles, 0.0F);
  engine.device().copy_to_device(in_arena(engine, kFp8Scaling), buffers.scaling.data(), bytes_of(buffers.scaling));
}

void read_fp8_state(Engine& engine, const ModelConfig& model, const SafetensorsFile& file) {
  if (!uses_fp8(engine)) return;
  const TensorSpec needed{state_shape(model), DType::f32}, stored = file.spec(kFp8StateName);
  require(stored == needed, ErrorKind::NoCheckpoint, "{}: tensor '{}' is {} but the model needs {}",
          file.path().string(), kFp8StateName, to_string(stored), to_string(needed));
  std::vector<float> numbers(static_cast<std::size_t>(needed.elements()));
  file.read_elements(kFp8StateName, 0, needed.elements(), DType::f32, numbers.data());
  Buffers buffers = read_buffers(engine);
  for_each_tensor(buffers, needed.shape, [&](float& scale, float* history, std::size_t at) {
    scale = numbers[at];
    std::copy_n(&numbers[at + 1], kFp8History, history);
  });
  engine.device().copy_to_device(in_arena(engine, kFp8Scaling), buffers.scaling.data(), bytes_of(buffers.scaling));
  engine.device().copy_to_device(in_arena(engine, kFp8HistoryName), buffers.history.data(), bytes_of(buffers.history));
}

}  // namespace plimsoll
