#include "launch/engine.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <thread>

#include "comm/collective_kernels.hpp"
#include "comm/group.hpp"
#include "launch/allocation_counter.hpp"
#include "launch/pipeline.hpp"
#include "runtime/core/text.hpp"
#include "runtime/ops/round_segment.hpp"
#include "runtime/tensor/convert.hpp"

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
  std::size_t run;
  std::int64_t first, count;  // in the run
};

// Runs in pieces of at most kPiece elements, several short ones to a batch: (first, last) indices of pieces.
std::vector<Piece> pieces_of(std::span<const Engine::LocalRun> runs) {
  std::vector<Piece> pieces;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    for (std::int64_t first = 0; first < runs[r].count; first += kPiece) {
      pieces.push_back({r, first, std::min(kPiece, runs[r].count - first)});
    }
  }
  return pieces;
}

// Some files have the head of a tied model twice.
bool repeats_embedding(const HuggingFaceWeights& weights, const std::string& name, std::span<const std::string> used) {
  if (name != "lm_head.weight") return false;
  const auto embedding = std::find_if(used.begin(), used.end(), [](const std::string& n) {
    return n.ends_with("wte.weight") || n.ends_with("embed_tokens.weight");
  });
  if (embedding == used.end() || weights.spec(*embedding).shape != weights.spec(name).shape) return false;
  const std::int64_t elements = weights.spec(name).elements();
  std::vector<double> ours(kPiece), theirs(kPiece);
  for (std::int64_t first = 0; first < elements; first += kPiece) {
    const std::int64_t count = std::min(kPiece, elements - first);
    weights.read_elements(*embedding, first, count, DType::f64, ours.data());
    weights.read_elements(name, first, count, DType::f64, theirs.data());
    if (ours != theirs) return false;
  }
  return true;
}

// Weights that the model has no place for would be another model than the folder's.
void require_all_used(const HuggingFaceWeights& weights, std::span<const std::string> used) {
  std::vector<std::string> unused = weights.unread(used);
  std::erase_if(unused, [&](const std::string& name) { return repeats_embedding(weights, name, used); });
  if (unused.empty()) return;
  constexpr std::size_t kShown = 3;
  const std::size_t count = unused.size();
  unused.resize(std::min(kShown, count));
  fail(ErrorKind::BadData, "{}: the model has no place for {} of its tensors: {}{}", weights.folder().string(), count,
       join(unused, ", "), count > kShown ? ", ..." : "");
}

bool has_stream(const Programs& programs, StreamKind kind) {
  return std::any_of(programs.graphs.begin(), programs.graphs.end(), [&](const auto& graph) {
    return std::any_of(graph->nodes.begin(), graph->nodes.end(), [&](const Node& n) { return n.stream == kind; });
  });
}

}  // namespace

Engine::Engine(Programs programs, const EngineOptions& options)
    : programs_(std::move(programs)), threads_(options.threads) {
  if (const auto world = options.groups.find("world"); world != options.groups.end()) world_ = world->second;
  omp_set_num_threads(options.threads);  // libraries that make their own parallel regions follow this
  if (options.backend == nullptr) own_backend_ = std::make_unique<Backend>(make_cpu_backend(options.threads));
  backend_ = options.backend != nullptr ? options.backend : own_backend_.get();
  Device& device = *backend_->device;
  compute_ = device.make_stream(StreamKind::Compute);
  communication_ = device.make_stream(StreamKind::Communication);
  arena_ = std::make_unique<Arena>(device, programs_.plan.total_bytes);
  values_ = std::make_unique<StepValues>(device, arena_->base() + programs_.plan.inputs_offset,
                                         arena_->base() + programs_.plan.outputs_offset);
  if (has_stream(programs_, StreamKind::Tensor)) tensor_ = device.make_stream(StreamKind::Tensor);
  if (programs_.plan.host_bytes > 0) {
    copy_ = device.make_stream(StreamKind::Copy);
    host_arena_ = std::make_unique<Arena>(device, programs_.plan.host_bytes, ArenaPlace::Host);
    host_arena_->fill_canary(options.threads);
  }
  kernels_ = backend_->kernels;
  add_collective_kernels(kernels_);
  ExecutorContext context{&device, compute_.get(), communication_.get(), arena_->base(), &kernels_,
                          {},      options.profile};
  context.tensor = tensor_.get();
  context.copy = copy_.get();
  context.values = values_.get();
  if (options.profile != nullptr && compute_->only_launches())
    times_ = std::make_unique<StreamTimes>(device, *compute_, *options.profile);
  context.times = times_.get();
  if (host_arena_) context.host_arena = host_arena_->base();
  for (const auto& [axis, group] : options.groups) context.groups[axis] = group;
  for (std::size_t i = 0; i < programs_.names.size(); ++i) {
    executors_[programs_.names[i]] = std::make_unique<Executor>(
        *programs_.graphs[i], programs_.plan, programs_.plan.program(programs_.names[i]), context,
        ExecutorOptions{backend_->threads, options.poison, options.overlap, begin_counted_region, end_counted_region,
                        backend_->records});
  }
  if (programs_.schedule) {
    links_ = std::make_unique<StageLinks>(*executors_.at(programs_.names.front()), context, options.groups, programs_);
    mark_actions(context.profile);
    for (std::size_t c = 0; programs_.has("train") && c < programs_.graph("train").pieces.size(); ++c) {
      const Graph& train = programs_.graph("train");
      output_parts_.push_back(train.pieces[c].output == kNoValue ? std::vector<std::size_t>{}
                                                                 : output_parts(train, static_cast<int>(c)));
    }
  }
  if (device.outside_bytes()) prepare_kernels();
  arena_->fill_canary(options.threads);
  device.fill(arena_->base(), 0, programs_.plan.persistent_bytes);
  for (const auto& graph : programs_.graphs) {
    for (const Node& node : graph->nodes) {
      if (node.op == op_id<AdamW>) {
        const auto& a = std::get<op_id<AdamW>>(node.attrs);
        betas_ = {a.beta1, a.beta2};
      }
    }
  }
  std::int64_t token_bytes = 0;
  for (const auto& [name, executor] : executors_) {
    for (const char* input : {"tokens", "targets"}) {
      if (executor->graph().named.contains(input))
        token_bytes = std::max(token_bytes, executor->view(input).spec.bytes());
    }
  }
  // Of a few micro-batches: the host need not be further ahead.
  constexpr int kOnTheirWay = 8;
  tokens_ = std::make_unique<Staging>(device, token_bytes, kOnTheirWay);
  watch_memory();
}

Engine::~Engine() = default;

// The code of a kernel comes to the device with its first call, which may wait for all that the device does: in a step
// that can be a message that another rank sends only behind that call. And what comes takes memory outside the arena.
void Engine::prepare_kernels() {
  for (const auto& [name, executor] : executors_) {
    device().fill(arena_->base(), 0, programs_.plan.total_bytes);  // ids of tokens are indices
    executor->prepare();
  }
}

void Engine::set_seed(std::uint64_t seed) { values_->inputs().seed = seed; }

void Engine::set_loss_scale(double scale) { values_->inputs().loss_scale = static_cast<float>(scale); }

const std::vector<Engine::LocalRun>& Engine::local_runs(std::string_view region) {
  if (const auto found = local_.find(region); found != local_.end()) return found->second;
  const Graph& graph = *programs_.graphs.front();
  const FlatLayout& layout = programs_.layout;
  const PersistentRegion& memory = programs_.plan.region(region);
  const std::int64_t element = dtype_bytes(programs_.dtype_of(region));
  std::byte* base = arena_->base() + memory.offset;
  const bool whole = !programs_.divides(region);
  std::vector<LocalRun>& runs = local_[std::string(region)];
  for_each_run(graph, layout, [&](const TensorRun& run) {
    const auto add = [&](std::int64_t flat_first, std::int64_t at, std::int64_t count) {
      const std::int64_t skipped = flat_first - run.flat_first;
      runs.push_back({run.part, run.parameter, run.tensor_first + skipped, count, base + at * element});
    };
    if (whole) return add(run.flat_first, run.flat_first, run.count);
    for_each_shard_range(layout, programs_.shard_rank, run.flat_first, run.count,
                         [&](const ShardRange& r) { add(r.flat_first, r.shard_first, r.count); });
  });
  return runs;
}

std::vector<NamedTensor> Engine::tensors(std::string_view region) {
  std::vector<NamedTensor> all;
  for (const LocalRun& run : local_runs(region)) {
    require(run.tensor_first == 0 && run.count == run.part->shape.elements(), ErrorKind::Internal,
            "this rank has only a part of '{}'", run.part->name);
    all.push_back({run.part->name, {run.part->shape, programs_.dtype_of(region)}, run.data});
  }
  return all;
}

// By tensor of the model, what this rank answers for: shards are there once, copies on the first of their replicas.
struct Engine::OwnedRuns {
  std::vector<std::vector<LocalRun>> of;
};

const Engine::OwnedRuns& Engine::owned_runs(std::string_view region) {
  if (const auto found = owned_.find(region); found != owned_.end()) return *found->second;
  auto owned = std::make_unique<OwnedRuns>();
  owned->of.resize(programs_.tensors.size());
  std::map<std::string_view, std::size_t> index;
  for (std::size_t t = 0; t < programs_.tensors.size(); ++t) index[programs_.tensors[t].name] = t;
  const bool whole = !programs_.divides(region);
  // ZeRO-1 sums gradients in place: of each unit only this rank's shard is the sum.
  const bool shard_in_place = whole && region == "gradients" && programs_.layout.shards > 1;
  const std::byte* base = arena_->base() + programs_.plan.region(region).offset;
  const std::int64_t element = dtype_bytes(programs_.dtype_of(region));
  for (const LocalRun& run : local_runs(region)) {
    const bool owns = whole && !shard_in_place ? programs_.owns_whole : programs_.owns_shards;
    if (!run.part->owned || !owns) continue;
    auto& runs = owned->of[index.at(run.part->name)];
    if (!shard_in_place) {
      runs.push_back(run);
      continue;
    }
    const std::int64_t flat_first = (run.data - base) / element;
    for_each_shard_range(programs_.layout, programs_.shard_rank, flat_first, run.count, [&](const ShardRange& range) {
      const std::int64_t skipped = range.flat_first - flat_first;
      runs.push_back({run.part, run.parameter, run.tensor_first + skipped, range.count, run.data + skipped * element});
    });
  }
  return *(owned_[std::string(region)] = std::move(owned));
}

void Engine::gather(std::string_view region, std::size_t tensor, std::int64_t first, std::int64_t count, void* out) {
  const std::int64_t element = dtype_bytes(programs_.dtype_of(region));
  auto* bytes = static_cast<std::byte*>(out);
  std::memset(bytes, 0, static_cast<std::size_t>(count * element));
  for (const LocalRun& run : owned_runs(region).of[tensor]) {
    const std::int64_t from = std::max(first, run.tensor_first);
    const std::int64_t to = std::min(first + count, run.tensor_first + run.count);
    if (from >= to) continue;
    device().copy_to_host(bytes + (from - first) * element, run.data + (from - run.tensor_first) * element,
                          (to - from) * element);
  }
  if (world_ == nullptr || world_->size() == 1) return;
  // Each element comes from one rank and is zero on all others: sums of its bytes as integers are exact.
  require(element >= dtype_bytes(DType::i32), ErrorKind::Internal, "'{}' has elements of {} bytes", region, element);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(world_->size())));
  world_->all_reduce({bytes, {{count * element / dtype_bytes(DType::i32)}, DType::i32}}, ReduceOp::Sum, scratch.data());
}

void Engine::initialise(std::uint64_t seed) {
  read_weights([&](const LocalRun& run, std::int64_t first, std::int64_t count, void* out) {
    const Initializer& init = run.parameter->init;
    programs_.wide() == DType::f64 ? initialise_range(*run.part, init, seed, first, count, static_cast<double*>(out))
                                   : initialise_range(*run.part, init, seed, first, count, static_cast<float*>(out));
  });
  set_seed(seed);
}

void Engine::load(const HuggingFaceWeights& weights) {
  std::vector<std::string> names;
  for (const ModelTensor& t : programs_.tensors) {
    const TensorSpec stored = weights.spec(t.name);
    require(stored.shape == t.shape, ErrorKind::BadData, "{}: tensor '{}' is {} but the model needs {}",
            weights.folder().string(), t.name, to_string(stored), to_string(TensorSpec{t.shape, programs_.dtype()}));
    names.push_back(t.name);
  }
  require_all_used(weights, names);
  read_weights([&](const LocalRun& run, std::int64_t first, std::int64_t count, void* out) {
    weights.read_elements(run.part->name, first, count, programs_.wide(), out);
  });
}

void Engine::read_weights(const ReadElements& elements, const std::optional<Rounding>& rounding) {
  read("parameters", elements, rounding ? &*rounding : nullptr);
  if (programs_.weights() != "parameters") read(programs_.weights(), elements);
}

namespace {

// Elements from `first` on of a tensor, as kernels round them.
void round_elements(const ParameterPart& part, const Engine::Rounding& rounding, std::int64_t first, std::int64_t count,
                    const float* from, bf16* to) {
  const RandomStream random(rounding.seed, rounding_stream(part.name));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t entry = rounding_entry(part.shape.elements(), rounding.update, first + i);
    to[i].bits = round_stochastic(std::bit_cast<std::uint32_t>(from[i]), random.bits(entry));
  }
}

}  // namespace

void Engine::read(std::string_view region, const ReadElements& elements, const Rounding* stochastic) {
  const std::vector<LocalRun>& runs = local_runs(region);
  const std::vector<Piece> pieces = pieces_of(runs);
  const DType wide = programs_.wide(), stored = programs_.dtype_of(region);
  const std::int64_t element = dtype_bytes(stored);
  parallel_for(static_cast<std::int64_t>(pieces.size()), threads_, [&](std::int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    const LocalRun& run = runs[piece.run];
    std::vector<std::byte> host(static_cast<std::size_t>(piece.count * dtype_bytes(wide)));
    elements(run, run.tensor_first + piece.first, piece.count, host.data());
    if (stored != wide) {
      std::vector<std::byte> rounded(static_cast<std::size_t>(piece.count * element));
      if (stochastic != nullptr && stored == DType::bf16) {
        round_elements(*run.part, *stochastic, run.tensor_first + piece.first, piece.count,
                       reinterpret_cast<const float*>(host.data()), reinterpret_cast<bf16*>(rounded.data()));
      } else {
        convert_elements(wide, host.data(), stored, rounded.data(), piece.count);
      }
      host = std::move(rounded);
    }
    device().copy_to_device(run.data + piece.first * element, host.data(), piece.count * element);
  });
}

}  // namespace plimsoll
