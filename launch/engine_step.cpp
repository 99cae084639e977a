// What an engine runs: micro-batches of training, forward alone, and through the stages of a pipeline; the update.

#include <cmath>

#include "launch/engine.hpp"
#include "launch/fp8_state.hpp"
#include "launch/pipeline.hpp"

namespace plimsoll {
namespace {

Variant variant_of(std::int64_t micro_batch, std::int64_t count) {
  if (count == 1) return Variant::Only;
  if (micro_batch == 0) return Variant::First;
  return micro_batch + 1 < count ? Variant::Middle : Variant::Last;
}

Half half_of(ActionKind kind) {
  if (kind == ActionKind::InputGrad) return Half::First;
  return kind == ActionKind::WeightGrad ? Half::Second : Half::Both;
}

}  // namespace

// The programs of which a report speaks; one that makes texts has none.
void Engine::watch_memory() {
  for (const char* name : {"train", "evaluate"}) {
    if (!programs_.has(name)) continue;
    Executor& program = executor(name);
    Watched& watched = watched_.emplace_back(Watched{name, nullptr, {}});
    watched.watch = std::make_unique<MemoryWatch>(program.graph(), programs_.plan.program(name), arena_->base(),
                                                  host_arena_ ? host_arena_->base() : nullptr);
    program.set_watch(watched.watch.get());
  }
}

// What a program does again is what it did.
void Engine::stop_watching(std::string_view program) {
  for (Watched& watched : watched_) {
    if (watched.program != program || watched.watch == nullptr) continue;
    watched.seen = watched.watch->seen();
    executor(program).set_watch(nullptr);
    watched.watch.reset();
  }
}

ClassBytes Engine::seen_class_bytes() const {
  std::vector<SeenMemory> seen;
  for (const Watched& watched : watched_) seen.push_back(watched.watch ? watched.watch->seen() : watched.seen);
  return plimsoll::seen_class_bytes(seen);
}

namespace {

// Values that the host or a message writes before nodes run, or reads after them.
View given(Executor& executor, ValueId value, int slot) {
  const View memory = executor.view(value, slot);
  if (executor.watch() != nullptr) executor.watch()->given_before(value, memory);
  return memory;
}
View taken(Executor& executor, ValueId value, int slot) {
  const View memory = executor.view(value, slot);
  if (executor.watch() != nullptr) executor.watch()->taken_after(value, memory);
  return memory;
}

}  // namespace

void Engine::fill_input(Executor& executor, std::string_view name, int slot, std::span<const std::int32_t> from) {
  const View to = given(executor, executor.graph().find(name), slot);
  require(static_cast<std::int64_t>(from.size()) == to.spec.elements(), ErrorKind::Internal,
          "'{}' has {} elements, not {}", name, to.spec.elements(), from.size());
  tokens_->send(*compute_, to.data, from.data(), to.spec.bytes());
}

void Engine::train_micro_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets,
                               Variant variant, double loss_seed, std::uint64_t first_sample) {
  Executor& train = executor("train");
  fill_input(train, "tokens", 0, tokens);
  fill_input(train, "targets", 0, targets);
  train.inputs().loss_seed = loss_seed * static_cast<double>(train.inputs().loss_scale);
  train.inputs().first_sample = first_sample;
  train.run(Graph::Section::Forward);
  train.run(Graph::Section::Backward, variant);
}

void Engine::train_micro_batches(std::int64_t count, const NextMicroBatch& next, double loss_seed) {
  if (links_) return run_schedule(count, next, loss_seed);
  for (std::int64_t m = 0; m < count; ++m) {
    const MicroBatch batch = next(m);
    train_micro_batch(batch.tokens, batch.targets, variant_of(m, count), loss_seed, batch.first_sample);
  }
}

void Engine::rehearse(const MicroBatch& batch) {
  Executor& train = executor("train");
  const Graph& graph = train.graph();
  if (!links_) train_micro_batch(batch.tokens, batch.targets, Variant::Middle, 1.0, batch.first_sample);
  for (std::size_t c = 0; c < graph.pieces.size(); ++c) {
    const PieceEnds& ends = graph.pieces[c];
    train.inputs().loss_seed = 1.0;
    train.inputs().first_sample = batch.first_sample;
    if (programs_.stage == 0 && c == 0) fill_input(train, "tokens", 0, batch.tokens);
    if (ends.output == kNoValue) fill_input(train, "targets", 0, batch.targets);
    const RunPart part{static_cast<int>(c), 0, Half::Both, true};
    train.run(Graph::Section::Forward, Variant::Middle, part);
    train.run(Graph::Section::Backward, Variant::Middle, part);
  }
  train.synchronize();
  forget_fp8_maximums(*this);
}

void Engine::run_schedule(std::int64_t count, const NextMicroBatch& next, double loss_seed) {
  const Schedule& schedule = *programs_.schedule;
  require(count == schedule.micro_batches, ErrorKind::Internal, "{} micro-batches, planned for {}", count,
          schedule.micro_batches);
  const std::vector<Action>& actions = schedule.actions[static_cast<std::size_t>(programs_.stage)];
  links_->begin("train");
  StepInputs& inputs = executor("train").inputs();
  inputs.loss_seed = loss_seed * static_cast<double>(inputs.loss_scale);
  std::int64_t fetched = 0;
  for (std::size_t i = 0; i < actions.size(); ++i) {
    for (; fetched <= actions[i].micro_batch; ++fetched) keep_batch(static_cast<std::size_t>(fetched), next(fetched));
    run_action(i, variant_of(actions[i].micro_batch, count));
  }
  links_->finish();
}

void Engine::keep_batch(std::size_t micro_batch, const MicroBatch& batch) {
  if (batches_.size() <= micro_batch) batches_.resize(micro_batch + 1);
  KeptBatch& kept = batches_[micro_batch];
  kept.first_sample = batch.first_sample;
  const Graph& graph = executor("train").graph();
  if (graph.named.contains("tokens")) kept.tokens.assign(batch.tokens.begin(), batch.tokens.end());
  if (graph.named.contains("targets")) kept.targets.assign(batch.targets.begin(), batch.targets.end());
}

void Engine::mark_actions(Profile* profile) {
  if (profile == nullptr || !programs_.has("train")) return;
  for (const Action& a : programs_.schedule->actions[static_cast<std::size_t>(programs_.stage)]) {
    ProfileRow row;
    row.program = "train";
    row.op = to_text(a.kind);
    row.phase = "action";
    row.label = to_text(a);
    row.track = "schedule";
    row.micro_batch = a.micro_batch;
    marks_.push_back({profile, profile->add_row(std::move(row))});
  }
}

void Engine::begin_action(ActionMark& mark) {
  if (times_) {
    mark.span = &times_->begin(mark.row, *compute_);
    return;
  }
  compute_->launch({[](void* m) { static_cast<ActionMark*>(m)->begin_ns = Profile::now_ns(); }, &mark});
}

void Engine::end_action(ActionMark& mark) {
  if (mark.span != nullptr) return StreamTimes::end(*mark.span);
  compute_->launch({[](void* m) {
                      const auto* mine = static_cast<const ActionMark*>(m);
                      mine->profile->record(mine->row, mine->begin_ns, Profile::now_ns());
                    },
                    &mark});
}

void Engine::run_action(std::size_t index, Variant variant) {
  Executor& train = executor("train");
  const Action& action = programs_.schedule->actions[static_cast<std::size_t>(programs_.stage)][index];
  const KeptBatch& batch = batches_[static_cast<std::size_t>(action.micro_batch)];
  const PieceEnds& ends = train.graph().pieces[static_cast<std::size_t>(action.chunk)];
  // A collective of the last action may wait for a stage that waits for what this one sends after it.
  RunPart part{action.chunk, action.slot, half_of(action.kind), false};
  const bool forward = action.kind == ActionKind::Forward;
  train.join();
  train.inputs().first_sample = batch.first_sample;
  if (forward && programs_.stage == 0 && action.chunk == 0) fill_input(train, "tokens", action.slot, batch.tokens);
  if (forward && ends.output == kNoValue) fill_input(train, "targets", action.slot, batch.targets);
  const ValueId in = forward ? ends.input : ends.output_grad, out = forward ? ends.output : ends.input_grad;
  const MessageKind kind = forward ? MessageKind::Output : MessageKind::Gradient;
  const bool talks = action.kind != ActionKind::WeightGrad;
  if (talks && in != kNoValue) links_->await(kind);
  if (!marks_.empty()) begin_action(marks_[index]);
  if (talks && in != kNoValue) links_->take(kind, given(train, in, action.slot));
  // Each part of an output leaves when it is made.
  struct Leaving {
    StageLinks* links;
    View from;
    std::span<const std::size_t> parts;
  } leaving{links_.get(), {}, {}};
  if (forward && out != kNoValue) {
    leaving.from = train.view(out, action.slot);
    leaving.parts = output_parts_[static_cast<std::size_t>(action.chunk)];
    part.marked = leaving.parts;
    part.context = &leaving;
    part.launched = [](void* context, std::size_t node) {
      auto& l = *static_cast<Leaving*>(context);
      for (; !l.parts.empty() && l.parts.front() == node; l.parts = l.parts.subspan(1))
        l.links->put_part(MessageKind::Output, l.from);
    };
  }
  train.run(forward ? Graph::Section::Forward : Graph::Section::Backward, variant, part);
  if (!marks_.empty()) end_action(marks_[index]);
  // What leaves in parts is the action's until its end, too.
  if (talks && out != kNoValue) {
    const View from = taken(train, out, action.slot);
    if (!forward) links_->put(kind, from);
  }
}

StepResult Engine::update(double learning_rate, std::uint64_t step, std::int64_t applied_updates) {
  Executor& train = executor("train");
  train.join();
  const auto t = static_cast<double>(applied_updates + 1);
  StepInputs& in = train.inputs();
  in.learning_rate = static_cast<float>(learning_rate);
  in.bias_correction1 = static_cast<float>(1.0 - std::pow(betas_[0], t));
  in.bias_correction2 = static_cast<float>(1.0 - std::pow(betas_[1], t));
  in.step = step;
  in.updates = static_cast<std::uint64_t>(applied_updates);
  train.run(Graph::Section::Update);
  train.synchronize();
  stop_watching("train");
  StepResult result;
  std::array<double, 2> loss{};
  device().copy_to_host(loss.data(), train.view("loss").data, sizeof(loss));
  result.loss_sum = loss[0];
  result.targets = loss[1];
  const StepOutputs outputs = train.outputs();
  result.grad_norm = outputs.grad_norm;
  result.applied = outputs.found_inf == 0;
  return result;
}

void Engine::evaluate_micro_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets,
                                  double& sum, double& count) {
  Executor& evaluate = executor("evaluate");
  const Graph& graph = evaluate.graph();
  if (graph.named.contains("tokens")) fill_input(evaluate, "tokens", 0, tokens);
  if (graph.named.contains("targets")) fill_input(evaluate, "targets", 0, targets);
  if (graph.pieces.empty()) evaluate.run(Graph::Section::Forward);
  if (!graph.pieces.empty()) links_->begin("evaluate");
  for (std::size_t c = 0; c < graph.pieces.size(); ++c) {
    const PieceEnds& ends = graph.pieces[c];
    if (ends.input != kNoValue) links_->take(MessageKind::Output, given(evaluate, ends.input, 0));
    evaluate.run(Graph::Section::Forward, Variant::Only, {static_cast<int>(c)});
    if (ends.output != kNoValue) links_->put(MessageKind::Output, taken(evaluate, ends.output, 0));
  }
  evaluate.synchronize();
  stop_watching("evaluate");
  if (!graph.named.contains("loss")) return;
  std::array<double, 2> loss{};
  device().copy_to_host(loss.data(), evaluate.view("loss").data, sizeof(loss));
  sum += loss[0];
  count += loss[1];
}

}  // namespace plimsoll
