// What ranks send: the transport counts what the formulas of the collectives say, and those add up to what is known of
// each kind of parallelism.

#include "runtime/exec/volume.hpp"
#include "parallel/tensor.hpp"
#include "runtime/exec/messages.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 2;
using Sent = std::map<std::string, std::int64_t>;

ProgramOptions options_of(ModelFamily family) {
  ProgramOptions o = tiny_options(family);
  o.micro_batch = 2;
  return o;
}

ProgramOptions on_layout(ProgramOptions o, const Layout& layout) {
  o.mesh = layout.mesh;
  o.zero = layout.zero;
  o.sequence_parallel = layout.sequence;
  o.tensor_chunks = layout.tensor_chunks;
  o.state_shares = layout.state_shares;
  return o;
}

std::int64_t micro_batches(const Layout& layout, const ProgramOptions& o) {
  return kRows / layout.mesh.data / o.micro_batch;
}

// How often a node runs in a step.
std::int64_t runs(const CollectiveCall& call, std::int64_t micro_batches) {
  const auto in = [&](Variant v) { return (call.when & static_cast<std::uint8_t>(v)) != 0 ? 1 : 0; };
  if (call.section == Graph::Section::Update) return in(Variant::Only);
  if (call.section == Graph::Section::Forward) return micro_batches * in(Variant::Only);
  if (micro_batches == 1) return in(Variant::Only);
  return in(Variant::First) + (micro_batches - 2) * in(Variant::Middle) + in(Variant::Last);
}

// Of rank 0, from the list of its collectives.
Sent listed(const Layout& layout, const ProgramOptions& options) {
  const ProgramOptions o = on_layout(options, layout);
  Sent sent;
  for (const CollectiveCall& call : collectives(build_programs(o).graph("train")))
    sent[call.axis] += kSteps * runs(call, micro_batches(layout, o)) * sent_bytes(call, 0);
  return sent;
}

// What the transports counted, without the axes over which nothing went.
Sent counted(const Layout& layout, const ProgramOptions& o) {
  Sent sent = train_on(layout, o, kRows, kSteps).sent;
  std::erase_if(sent, [](const auto& entry) { return entry.second == 0; });
  return sent;
}

TEST(Volume, FormulasOfTheCollectives) {
  // m = 12 elements over 4 ranks: 2 · 3/4 · 12, 3/4 · 12.
  EXPECT_EQ(sent_elements(CollectiveKind::AllReduce, 12, 4, 1), 18);
  EXPECT_EQ(sent_elements(CollectiveKind::ReduceScatter, 12, 4, 1), 9);
  EXPECT_EQ(sent_elements(CollectiveKind::AllGather, 12, 4, 1), 9);
  for (const CollectiveKind kind :
       {CollectiveKind::AllReduce, CollectiveKind::ReduceScatter, CollectiveKind::AllGather}) {
    std::int64_t all = 0;
    for (int r = 0; r < 4; ++r) all += sent_elements(kind, 11, 4, r);
    EXPECT_EQ(all, (kind == CollectiveKind::AllReduce ? 2 : 1) * 3 * 11) << "what does not divide, over all ranks";
    EXPECT_EQ(sent_elements(kind, 11, 1, 0), 0);
  }
  const RankCuts cuts{0, 7, 7, 12};
  EXPECT_EQ(sent_elements(CollectiveKind::ReduceScatter, 12, 3, 0, cuts), 5);
  EXPECT_EQ(sent_elements(CollectiveKind::AllGather, 12, 3, 0, cuts), 14);
  EXPECT_EQ(sent_elements(CollectiveKind::ReduceScatter, 12, 3, 1, cuts), 12) << "it has nothing of the sum";
  EXPECT_EQ(sent_elements(CollectiveKind::AllGather, 12, 3, 1, cuts), 0);
}

TEST(Volume, TransportsCountWhatTheProgramsList) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    const ProgramOptions o = options_of(family);
    const int copies = TensorParallel{4, 0, false}.kv_copies(o.model);
    const std::vector<Layout> layouts{{{.data = 2}, 0},
                                      {{.data = 4}, 0},
                                      {{.data = 4, .shards = 4}, 1},
                                      {{.data = 2, .shards = 2}, 2},
                                      {{.data = 4, .shards = 2}, 2},
                                      {{.data = 2, .shards = 2}, 3},
                                      {{.data = 4, .shards = 2}, 3},
                                      {.mesh = {.data = 2, .shards = 2}, .zero = 1, .state_shares = {3, 1}},
                                      {.mesh = {.data = 4, .shards = 4}, .zero = 2, .state_shares = {1, 9, 2, 4}},
                                      {.mesh = {.data = 4, .shards = 2}, .zero = 3, .state_shares = {5, 2}},
                                      {{.tensor = 2}, 0, false},
                                      {{.tensor = 4, .kv_copies = copies}, 0, true},
                                      {{.data = 2, .tensor = 2}, 0, true},
                                      {{.data = 2, .tensor = 2, .shards = 2}, 3, true}};
    for (const Layout& layout : layouts) {
      SCOPED_TRACE(name_of(layout));
      EXPECT_EQ(counted(layout, o), listed(layout, o));
    }
  }
}

// With the formulas written out. m: bytes of all parameters, with padding; k micro-batches; n ranks.
//   without ZeRO     2 (n − 1)/n · m                 gradients are summed, once a step
//   ZeRO-1           2 (n − 1)/n · m                 scattered sums of gradients, gathered parameters
//   ZeRO-2     (k + 1) (n − 1)/n · m                 the sums in every micro-batch
//   ZeRO-3    (k + 2k) (n − 1)/n · m                 parameters gathered in forward and again in backward
// besides the loss (two f64) and, where shards know parts of the norm, an f64 of each tensor.
TEST(Volume, DataParallelismAndZero) {
  const ProgramOptions o = options_of(ModelFamily::Gpt2);
  for (const int n : {2, 4}) {
    for (const int zero : {0, 1, 2, 3}) {
      const Layout layout{{.data = n, .shards = zero > 0 ? n : 1}, zero};
      SCOPED_TRACE(name_of(layout));
      const Programs programs = build_programs(on_layout(o, layout));
      const std::int64_t m = programs.layout.elements * 4, k = micro_batches(layout, o);
      const auto tensors = static_cast<std::int64_t>(programs.tensors.size());
      const std::int64_t times = zero < 2 ? 2 : zero == 2 ? k + 1 : 3 * k;
      const std::int64_t loss = 8 * sent_elements(CollectiveKind::AllReduce, 2, n, 0),
                         norm = 8 * sent_elements(CollectiveKind::AllReduce, tensors, n, 0);
      Sent sent;
      if (loss > 0) sent["data"] = kSteps * loss;
      sent[zero == 0 ? "data" : "shard"] += kSteps * times * (n - 1) * m / n;
      if (zero > 0) sent["shard"] += kSteps * norm;
      EXPECT_EQ(counted(layout, o), sent);
    }
  }
}

// a: bytes of the activations of a micro-batch [batch, sequence, hidden]; L layers. Tensor parallelism sums the output
// of the embedding, of attention and of the MLP, and in backward the gradients of their inputs and of the loss: (2 L +
// 1) · 2 all-reduces. With sequence parallelism each is a reduce-scatter and an all-gather: the same bytes (Korthikanti
// et al. 2022), and once a step the gradients of what every rank has for its tokens. Chunks of linears send what the
// linears would.
TEST(Volume, TensorAndSequenceParallelism) {
  const ProgramOptions o = options_of(ModelFamily::Gpt2);
  for (const int n : {2, 4}) {
    for (const auto& [sequence, chunks] : {std::pair{false, 1}, {false, 3}, {true, 1}, {true, 2}}) {
      const Layout layout{.mesh = {.tensor = n}, .sequence = sequence, .tensor_chunks = chunks};
      SCOPED_TRACE(name_of(layout));
      const std::int64_t k = micro_batches(layout, o), rows = o.micro_batch * o.sequence, h = o.model.hidden,
                         layers = o.model.layers, a = rows * h * 4;
      // Per row of the loss: its maximum, its sum and the logit of its target, in f64.
      const std::int64_t loss = 8 * (sent_elements(CollectiveKind::AllReduce, rows, n, 0) +
                                     sent_elements(CollectiveKind::AllReduce, 2 * rows, n, 0));
      const auto tensors = static_cast<std::int64_t>(build_programs(on_layout(o, layout)).tensors.size());
      const std::int64_t norm = 8 * sent_elements(CollectiveKind::AllReduce, tensors, n, 0);
      // Two norms and two biases behind row-parallel products in a layer, the last norm, positions.
      const std::int64_t copied = 4 * (layers * 6 * h + 2 * h + o.model.positions * h);
      const std::int64_t step =
          k * (2 * (2 * layers + 1) * 2 * (n - 1) * a / n + loss) + norm + (sequence ? 2 * (n - 1) * copied / n : 0);
      EXPECT_EQ(counted(layout, o), (Sent{{"tensor", kSteps * step}}));
    }
  }
}

// a: as above. A stage sends the activations of every micro-batch to the next one, for each of its pieces but the last
// of the model, and as much back. Rank 0 is the first stage: one gradient less for each piece. Whatever the schedule.
TEST(Volume, PipelineMessages) {
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  o.model.layers = 4;
  for (const Layout& layout : every_schedule({{.pipeline = 2}}, o.model.layers)) {
    SCOPED_TRACE(name_of(layout));
    ProgramOptions mine = on_layout(o, layout);
    mine.schedule = layout.schedule;
    mine.chunks = layout.chunks;
    mine.micro_batches = micro_batches(layout, o);
    const Programs programs = build_programs(mine);
    const std::int64_t a = o.micro_batch * o.sequence * o.model.hidden * 4, m = mine.micro_batches;
    Sent messages;
    for (const StageMessage& message : stage_messages(programs.graph("train"), *programs.schedule, 0, true)) {
      if (message.sends) messages[std::string(message_axis(message.kind))] += message.bytes();
    }
    Sent formula{{"pipeline", layout.chunks * m * a}};
    if (layout.chunks > 1) formula["pipeline_back"] = (layout.chunks - 1) * m * a;
    EXPECT_EQ(messages, formula);
    Sent all;
    for (const auto& [axis, bytes] : messages) all[axis] += kSteps * bytes;
    for (const CollectiveCall& call : collectives(programs.graph("train")))
      all[call.axis] += kSteps * runs(call, m) * sent_bytes(call, 0);
    EXPECT_EQ(counted(layout, o), all);
  }
}

}  // namespace
}  // namespace plimsoll
