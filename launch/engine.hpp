#pragma once
// One rank at work: device, streams, the arena of the plan, and an executor for each program. The training loop,
// evaluation, generation and the golden check drive it.

#include <functional>
#include <map>
#include <memory>
#include <span>

#include "comm/group.hpp"
#include "launch/backend.hpp"
#include "launch/programs.hpp"
#include "runtime/checkpoint/weights.hpp"
#include "runtime/device/arena.hpp"
#include "runtime/device/staging.hpp"
#include "runtime/exec/executor.hpp"
#include "runtime/exec/memory_watch.hpp"

namespace plimsoll {

struct EngineOptions {
  int threads = 1;  // of the host: what it reads and writes itself, and the kernels of the CPU
  bool poison = false;
  std::map<std::string, const Group*, std::less<>> groups;  // by mesh axis; outlive the engine
  Profile* profile = nullptr;
  bool overlap = true;         // of compute and collectives
  Backend* backend = nullptr;  // outlives the engine; null: the CPU
};

// A tensor of the run in the memory of its device, under its checkpoint name.
struct NamedTensor {
  std::string name;
  TensorSpec spec;
  void* data = nullptr;
};

struct StepResult {
  double loss_sum = 0;  // over the valid targets of the global batch
  double targets = 0;
  double grad_norm = 0;
  bool applied = true;  // false: the gradients were not finite and nothing was updated
  double loss() const { return loss_sum / targets; }
};

// [micro_batch, sequence] each; first_sample: global index of row 0 (dropout).
struct MicroBatch {
  std::span<const std::int32_t> tokens, targets;
  std::uint64_t first_sample = 0;
};
// Micro-batch m of a step; asked for in rising order, and what it returns lasts until the next one is asked for.
using NextMicroBatch = std::function<MicroBatch(std::int64_t m)>;

class StageLinks;

class Engine {
 public:
  // Allocates the arenas (its only allocations of that size), touches them once, binds all programs; on a device with
  // memory of its own calls each of their kernels.
  Engine(Programs programs, const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Parameters: drawn from the seed, or read from a Hugging Face folder (BadData names a missing or misshapen tensor,
  // and those that the model has no place for).
  void initialise(std::uint64_t seed);
  void load(const HuggingFaceWeights& weights);
  // Fills a region: asks for elements [first, first + count) of the tensor of a run as programs().wide(), from several
  // threads, and rounds them to what the region has.
  struct LocalRun;
  using ReadElements = std::function<void(const LocalRun& run, std::int64_t first, std::int64_t count, void* out)>;
  struct Rounding;
  void read(std::string_view region, const ReadElements& elements, const Rounding* stochastic = nullptr);
  // Fills the parameters and, where there are any, the master weights that they are rounded from: to nearest, or as the
  // last update of a run with this seed rounded them stochastically.
  struct Rounding {
    std::uint64_t seed = 0, update = 0;  // how many were applied
  };
  void read_weights(const ReadElements& elements, const std::optional<Rounding>& rounding = std::nullopt);

  // The micro-batches of a step: forward and backward, in the order of the schedule where there is a pipeline.
  // loss_seed = 1 / valid targets of the global batch.
  void train_micro_batches(std::int64_t count, const NextMicroBatch& next, double loss_seed);
  // Without a pipeline: one micro-batch. tokens and targets are [micro_batch, sequence]; loss_seed = 1 / valid
  // targets of the global batch; first_sample: global index of row 0 (dropout).
  void train_micro_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets, Variant variant,
                         double loss_seed, std::uint64_t first_sample);
  // Forward and backward of a micro-batch as in the middle of a step, without a neighbour in a pipeline, and waits for
  // the device: to time it. Nothing of it is left once a step has begun. Not with ZeRO 2 and 3, which communicate
  // there.
  void rehearse(const MicroBatch& batch);
  // What the loss is multiplied by from the next step on; the norm and the update divide by it. 1 at first.
  void set_loss_scale(double scale);
  // Norm, clipping and optimizer step; `applied_updates` counts the earlier ones. Waits for the device.
  StepResult update(double learning_rate, std::uint64_t step, std::int64_t applied_updates);
  // Adds a micro-batch to `sum` and `count`; in a pipeline, the last stage does.
  void evaluate_micro_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets, double& sum,
                            double& count);

  Executor& executor(std::string_view program) { return *executors_.find(program)->second; }
  const Programs& programs() const { return programs_; }
  Arena& arena() { return *arena_; }
  // What is offloaded lies there; null: nothing is.
  Arena* host_arena() { return host_arena_.get(); }
  Device& device() { return *backend_->device; }
  // What training and evaluation were seen to use, in their first step and micro-batch.
  ClassBytes seen_class_bytes() const;
  void set_seed(std::uint64_t seed);

  // What this rank has of the tensors of a flat region: "parameters", "gradients", or moments. In the arena.
  struct LocalRun {
    const ParameterPart* part;
    const Parameter* parameter;
    std::int64_t tensor_first, count;  // elements of the tensor
    std::byte* data;
  };
  const std::vector<LocalRun>& local_runs(std::string_view region);
  // The tensors themselves, in model order, where this rank has all of them in one piece (else Error(Internal)).
  std::vector<NamedTensor> tensors(std::string_view region);
  // Elements [first, first + count) of tensor `tensor` of programs().tensors into `out`, on every rank, from the ranks
  // that own them. Collective over all ranks.
  void gather(std::string_view region, std::size_t tensor, std::int64_t first, std::int64_t count, void* out);

 private:
  struct OwnedRuns;
  const OwnedRuns& owned_runs(std::string_view region);
  void prepare_kernels();
  void watch_memory();
  void stop_watching(std::string_view program);
  void fill_input(Executor& executor, std::string_view name, int slot, std::span<const std::int32_t> from);
  void run_schedule(std::int64_t count, const NextMicroBatch& next, double loss_seed);
  void run_action(std::size_t index, Variant variant);
  void mark_actions(Profile* profile);
  struct ActionMark;
  void begin_action(ActionMark& mark);
  void end_action(ActionMark& mark);
  void keep_batch(std::size_t micro_batch, const MicroBatch& batch);

  // A micro-batch of a pipeline's step, from its first action to its last on this rank.
  struct KeptBatch {
    std::vector<std::int32_t> tokens, targets;  // where this stage reads them
    std::uint64_t first_sample = 0;
  };

  Programs programs_;
  std::unique_ptr<Backend> own_backend_;
  Backend* backend_;
  std::unique_ptr<Arena> arena_, host_arena_;
  std::unique_ptr<StepValues> values_;
  std::unique_ptr<Staging> tokens_;                                  // of micro-batches, on their way to the arena
  std::unique_ptr<StreamTimes> times_;                               // of a profile; null: the host's clock does
  std::unique_ptr<Stream> compute_, communication_, tensor_, copy_;  // behind what they work on: they go first
  KernelTable kernels_;
  std::map<std::string, std::unique_ptr<Executor>, std::less<>> executors_;
  std::map<std::string, std::vector<LocalRun>, std::less<>> local_;       // by region; made when first asked for
  std::map<std::string, std::unique_ptr<OwnedRuns>, std::less<>> owned_;  // likewise
  std::unique_ptr<StageLinks> links_;                                     // null: no pipeline
  std::vector<std::vector<std::size_t>> output_parts_;                    // of "train", by chunk: output_parts()
  std::vector<KeptBatch> batches_;
  struct Watched {
    std::string program;
    std::unique_ptr<MemoryWatch> watch;  // null: `seen` is all of it
    SeenMemory seen;
  };
  std::vector<Watched> watched_;
  // Where there is a profile: when the actions of the schedule began and ended on the compute stream.
  struct ActionMark {
    Profile* profile;
    int row;
    std::int64_t begin_ns = 0;
    StreamTimes::Span* span = nullptr;  // where there are times_
  };
  std::vector<ActionMark> marks_;
  const Group* world_ = nullptr;  // null: one rank
  int threads_;
  std::array<double, 2> betas_{0.9, 0.999};
};

}  // namespace plimsoll
