#pragma once
// Models and runs that take milliseconds.

#include <cmath>
#include <vector>

#include "launch/config.hpp"
#include "launch/engine.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/data/token_writer.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/tensor/convert.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll::test {

inline ModelConfig tiny_model(ModelFamily family) {
  ModelConfig m = family_defaults(family);
  m.layers = 2;
  m.hidden = 24;
  m.heads = 4;
  m.vocabulary = 37;
  m.positions = 80;
  if (family == ModelFamily::Llama) {
    m.kv_heads = 2;
    m.ffn = 40;
  }
  return resolve(m);
}

inline ProgramOptions tiny_options(ModelFamily family) {
  ProgramOptions o;
  o.model = tiny_model(family);
  o.sequence = 12;
  o.micro_batch = 2;
  o.train = true;
  return o;
}

// Forward and backward of one rank that holds everything.
inline Graph tiny_training_graph(const ProgramOptions& o) {
  Graph graph = build_transformer(o.model, {o.micro_batch, o.sequence, Head::Loss, o.dtype, kLogitsBytes, 0, true, {}});
  add_backward(graph);
  return graph;
}

// A sequence with some regularity, so that there is something to learn.
inline std::vector<std::int32_t> tiny_tokens(std::int64_t count, std::int32_t vocabulary, std::uint64_t seed) {
  const RandomStream random(seed, "tiny_tokens");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double jump = random.uniform(i);
    ids[i] = i == 0 || jump < 0.3 ? static_cast<std::int32_t>(jump / 0.3 * vocabulary) % vocabulary
                                  : (ids[i - 1] * 5 + 3) % vocabulary;
  }
  return ids;
}

// The rows [first_row, first_row + rows) of step `step` of an endless stream of samples of `sequence` tokens.
struct TinyBatch {
  std::vector<std::int32_t> tokens, targets;
};
inline TinyBatch tiny_batch(const ProgramOptions& o, std::uint64_t step, std::int64_t first_row, std::int64_t rows) {
  TinyBatch batch;
  for (std::int64_t r = first_row; r < first_row + rows; ++r) {
    const auto ids = tiny_tokens(o.sequence + 1, static_cast<std::int32_t>(o.model.vocabulary),
                                 step * 1000 + static_cast<std::uint64_t>(r));
    batch.tokens.insert(batch.tokens.end(), ids.begin(), ids.end() - 1);
    batch.targets.insert(batch.targets.end(), ids.begin() + 1, ids.end());
  }
  return batch;
}

// One optimizer step on `rows` rows from `first_row`, in micro-batches of o.micro_batch; the global batch has
// `global_rows`.
inline StepResult tiny_step(Engine& engine, const ProgramOptions& o, std::int64_t step, std::int64_t first_row,
                            std::int64_t rows, std::int64_t global_rows) {
  TinyBatch batch;
  const auto next = [&](std::int64_t m) {
    const std::int64_t row = first_row + m * o.micro_batch;
    batch = tiny_batch(o, static_cast<std::uint64_t>(step), row, o.micro_batch);
    return MicroBatch{batch.tokens, batch.targets, static_cast<std::uint64_t>(step * global_rows + row)};
  };
  engine.train_micro_batches(rows / o.micro_batch, next, 1.0 / static_cast<double>(global_rows * o.sequence));
  return engine.update(3e-3, static_cast<std::uint64_t>(step), step);
}

// All elements of a region ("parameters", "gradients", "optimizer.first"), tensor by tensor.
inline std::vector<double> region_values(Engine& engine, std::string_view region) {
  std::vector<double> all;
  for (const NamedTensor& t : engine.tensors(region)) {
    std::vector<double> values(static_cast<std::size_t>(t.spec.elements()));
    convert_elements(t.spec.dtype, t.data, DType::f64, values.data(), t.spec.elements());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// A token file at folder/text and a configuration that trains on it into folder/`run`.
inline void write_tiny_data(const TempFolder& folder) {
  TokenWriter writer((folder / "text").string(), 37);
  writer.append(tiny_tokens(6000, 37, 5));
  writer.end_document();
  writer.finish();
}

inline Config tiny_config(const TempFolder& folder, const std::string& run,
                          const std::vector<std::string>& overrides = {}) {
  const std::string yaml = fmt::format(R"(
model: {{family: gpt2, layers: 2, hidden: 24, heads: 4, vocabulary: 37, positions: 64}}
data: {{train: {0}/text, validation: 0.1, sequence: 64}}
train: {{steps: 6, global_batch: 4, micro_batch: 2, eval_batches: 2}}
optimizer: {{lr: 3e-3}}
schedule: {{warmup: 2}}
run: {{dir: {0}/{1}, seed: 3, log_every: 1, eval_every: 3, save_every: 3, keep: 0, threads: 1}}
)",
                                       folder.path().string(), run);
  return parse_config(yaml, "tiny.yaml", overrides);
}

}  // namespace plimsoll::test
