#include "launch/engine.hpp"

#include <omp.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "comm/collective_kernels.hpp"
#include "kernels/cpu/register.hpp"
#include "launch/allocation_counter.hpp"

namespace plimsoll {
namespace {

// Runs work(i) for i in [0, count) on `threads` threads; the first exception is rethrown.
template <class Work>
void parallel_for(std::int64_t count, int threads, const Work& work) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  const auto loop = [&] {
    try {
      for (std::int64_t i = next++; i < count && !failed; i = next++) work(i);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(loop);
  loop();
  for (std::thread& h : helpers) h.join();
  if (error) std::rethrow_exception(error);
}

// Elements handled at a time while parameters are made or read: bounds the memory outside the arena.
constexpr std::int64_t kPiece = std::int64_t{1} << 16;

struct Piece {
  std::size_t tensor;
  std::int64_t first, count;
};

std::vector<Piece> pieces_of(std::span<const NamedTensor> tensors) {
  std::vector<Piece> pieces;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const std::int64_t n = tensors[t].spec.elements();
    for (std::int64_t first = 0; first < n; first += kPiece) pieces.push_back({t, first, std::min(kPiece, n - first)});
  }
  return pieces;
}

std::byte* element(const NamedTensor& t, std::int64_t index) {
  return static_cast<std::byte*>(t.data) + index * dtype_bytes(t.spec.dtype);
}

}  // namespace

Engine::Engine(Programs programs, const EngineOptions& options)
    : programs_(std::move(programs)), threads_(options.threads) {
  omp_set_num_threads(options.threads);  // libraries that make their own parallel regions follow this
  device_ = make_cpu_device(options.threads);
  compute_ = device_->make_stream(StreamKind::Compute);
  communication_ = device_->make_stream(StreamKind::Communication);
  arena_ = std::make_unique<Arena>(*device_, programs_.plan.total_bytes);
  arena_->fill_canary(options.threads);
  device_->fill(arena_->base(), 0, programs_.plan.persistent_bytes);
  kernels_ = cpu_kernels();
  add_collective_kernels(kernels_);
  const ExecutorContext context{device_.get(), compute_.get(), communication_.get(), arena_->base(),
                                &kernels_,     options.groups, options.profile};
  for (std::size_t i = 0; i < programs_.names.size(); ++i) {
    executors_[programs_.names[i]] = std::make_unique<Executor>(
        *programs_.graphs[i], programs_.plan, programs_.plan.program(programs_.names[i]), context,
        ExecutorOptions{options.threads, options.poison, begin_counted_region, end_counted_region});
  }
  for (const auto& graph : programs_.graphs) {
    for (const Node& node : graph->nodes) {
      if (node.op == op_id<AdamW>) {
        const auto& a = std::get<op_id<AdamW>>(node.attrs);
        betas_ = {a.beta1, a.beta2};
      }
    }
  }
  StepInputs& inputs = executors_.begin()->second->inputs();
  inputs = StepInputs{};
}

Engine::~Engine() = default;

void Engine::set_seed(std::uint64_t seed) { executors_.begin()->second->inputs().seed = seed; }

std::vector<NamedTensor> Engine::tensors(std::string_view flat_region, std::string_view prefix) {
  const Graph& graph = *programs_.graphs.front();
  std::byte* base = arena_->base() + programs_.plan.region(flat_region).offset;
  const DType dtype = graph[graph.parameters.front().value].spec.dtype;
  std::vector<NamedTensor> all;
  for_each_tensor(graph, programs_.layout, [&](const ParameterPart& part, const Parameter&, std::int64_t offset) {
    all.push_back({fmt::format("{}{}", prefix, part.name), {part.shape, dtype}, base + offset * dtype_bytes(dtype)});
  });
  return all;
}

void Engine::initialise(std::uint64_t seed) {
  const Graph& graph = *programs_.graphs.front();
  std::vector<std::pair<const ParameterPart*, Initializer>> recipes;
  for (const Parameter& p : graph.parameters) {
    for (const ParameterPart& part : p.parts) recipes.emplace_back(&part, p.init);
  }
  const std::vector<NamedTensor> targets = tensors("parameters");
  const std::vector<Piece> pieces = pieces_of(targets);
  parallel_for(static_cast<std::int64_t>(pieces.size()), threads_, [&](std::int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    const NamedTensor& t = targets[piece.tensor];
    const auto& [part, init] = recipes[piece.tensor];
    const auto draw = [&](auto zero) {
      std::vector<decltype(zero)> host(static_cast<std::size_t>(piece.count));
      initialise_range(*part, init, seed, piece.first, piece.count, host.data());
      device_->copy_to_device(element(t, piece.first), host.data(), piece.count * dtype_bytes(t.spec.dtype));
    };
    t.spec.dtype == DType::f64 ? draw(double{}) : draw(float{});
  });
  set_seed(seed);
}

void Engine::load(const HuggingFaceWeights& weights) {
  const std::vector<NamedTensor> targets = tensors("parameters");
  for (const NamedTensor& t : targets) {
    const TensorSpec stored = weights.spec(t.name);
    require(stored.shape == t.spec.shape, ErrorKind::BadData, "{}: tensor '{}' is {} but the model needs {}",
            weights.folder().string(), t.name, to_string(stored), to_string(t.spec));
  }
  const std::vector<Piece> pieces = pieces_of(targets);
  parallel_for(static_cast<std::int64_t>(pieces.size()), threads_, [&](std::int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    const NamedTensor& t = targets[piece.tensor];
    std::vector<std::byte> host(static_cast<std::size_t>(piece.count * dtype_bytes(t.spec.dtype)));
    weights.read_elements(t.name, piece.first, piece.count, t.spec.dtype, host.data());
    device_->copy_to_device(element(t, piece.first), host.data(), static_cast<std::int64_t>(host.size()));
  });
}

void Engine::fill_inputs(Executor& executor, std::span<const std::int32_t> tokens,
                         std::span<const std::int32_t> targets) {
  const auto fill = [&](std::string_view name, std::span<const std::int32_t> from) {
    const View to = executor.view(name);
    require(static_cast<std::int64_t>(from.size()) == to.spec.elements(), ErrorKind::Internal,
            "'{}' has {} elements, not {}", name, to.spec.elements(), from.size());
    device_->copy_to_device(to.data, from.data(), to.spec.bytes());
  };
  fill("tokens", tokens);
  if (!targets.empty()) fill("targets", targets);
}

void Engine::train_micro_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets,
                               Variant variant, double loss_seed, std::uint64_t first_sample) {
  Executor& train = executor("train");
  compute_->synchronize();  // the device no longer reads the inputs of the micro-batch before
  fill_inputs(train, tokens, targets);
  train.inputs().loss_seed = loss_seed;
  train.inputs().first_sample = first_sample;
  train.run(Graph::Section::Forward);
  train.run(Graph::Section::Backward, variant);
}

StepResult Engine::update(double learning_rate, std::uint64_t step, std::int64_t applied_updates) {
  Executor& train = executor("train");
  const auto t = static_cast<double>(applied_updates + 1);
  compute_->synchronize();
  StepInputs& in = train.inputs();
  in.learning_rate = static_cast<float>(learning_rate);
  in.bias_correction1 = static_cast<float>(1.0 - std::pow(betas_[0], t));
  in.bias_correction2 = static_cast<float>(1.0 - std::pow(betas_[1], t));
  in.step = step;
  train.run(Graph::Section::Update);
  train.synchronize();
  StepResult result;
  std::array<double, 2> loss{};
  device_->copy_to_host(loss.data(), train.view("loss").data, sizeof(loss));
  result.loss_sum = loss[0];
  result.targets = loss[1];
  result.grad_norm = train.outputs().grad_norm;
  result.applied = train.outputs().found_inf == 0;
  return result;
}

void Engine::evaluate_micro_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets,
                                  double& sum, double& count) {
  Executor& evaluate = executor("evaluate");
  fill_inputs(evaluate, tokens, targets);
  evaluate.run(Graph::Section::Forward);
  evaluate.synchronize();
  std::array<double, 2> loss{};
  device_->copy_to_host(loss.data(), evaluate.view("loss").data, sizeof(loss));
  sum += loss[0];
  count += loss[1];
}

}  // namespace plimsoll
