// The layout planner on clusters that nobody has here: how long it thinks about 10,000 ranks, and the MFU that it
// predicts for runs of the sizes of Megatron-LM's table on H100s (sequence 4096, vocabulary 131072), on as many ranks
// and with the same tensor and pipeline sizes, beside the published one. Prints JSON lines. In bf16: bytes are bounds,
// since there is no bf16 program.

#include <chrono>
#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "parallel/layout.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

ModelConfig llama(std::int64_t layers, std::int64_t hidden, std::int64_t heads, std::int64_t kv_heads, std::int64_t ffn,
                  std::int64_t vocabulary, std::int64_t positions) {
  ModelConfig m = family_defaults(ModelFamily::Llama);
  m.layers = layers;
  m.hidden = hidden;
  m.heads = heads;
  m.kv_heads = kv_heads;
  m.ffn = ffn;
  m.vocabulary = vocabulary;
  m.positions = positions;
  m.tied = false;
  return resolve(m);
}

// GPT as in the Megatron-LM table: 4 h MLP, learned positions, untied.
ModelConfig gpt(std::int64_t layers, std::int64_t hidden, std::int64_t heads) {
  ModelConfig m = family_defaults(ModelFamily::Gpt2);
  m.layers = layers;
  m.hidden = hidden;
  m.heads = heads;
  m.vocabulary = 131072;
  m.positions = 4096;
  m.tied = false;
  return resolve(m);
}

LayoutProblem bf16_problem(const ModelConfig& model, std::int64_t sequence, std::int64_t batch, int ranks) {
  LayoutProblem p;
  p.model = model;
  p.dtype = DType::bf16;
  p.sequence = sequence;
  p.global_batch = batch;
  p.ranks = ranks;
  return p;
}

void plan_large(const char* name, const ModelConfig& model, const ClusterDescription& cluster) {
  LayoutProblem p = bf16_problem(model, 8192, 10000, 10000);
  p.budget_bytes = cluster.device.memory_bytes - cluster.device.outside_bytes;
  const DescribedCosts costs(cluster);
  const auto begin = std::chrono::steady_clock::now();
  const LayoutChoice choice = choose_layout(p, {cluster, &costs}, {});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  nlohmann::json json{{"model", name},
                      {"ranks", p.ranks},
                      {"parameters", format_count(parameter_count(model))},
                      {"planning_s", seconds},
                      {"tried", choice.tried}};
  for (const RankedLayout& r : choice.best) {
    json["best"].push_back({{"layout", to_text(r.layout)},
                            {"step_s", r.estimate.step_s},
                            {"mfu", r.estimate.mfu},
                            {"bound_bytes", r.estimate.memory_bound_bytes}});
  }
  fmt::print("{}\n", json.dump());
}

struct Row {
  const char* name;
  ModelConfig model;
  int ranks, tensor, pipeline, chunks;
  std::int64_t batch, micro;
  double published;
};

void megatron_row(const Row& row, const ClusterDescription& cluster) {
  const DescribedCosts costs(cluster);
  LayoutCosts estimates(bf16_problem(row.model, 4096, row.batch, row.ranks), {cluster, &costs});
  Layout l;
  l.mesh.tensor = row.tensor;
  l.mesh.pipeline = row.pipeline;
  l.mesh.data = l.mesh.shards = row.ranks / row.tensor / row.pipeline;
  l.zero = 1;
  l.sequence_parallel = row.tensor > 1;
  l.chunks = row.chunks;
  l.schedule = row.chunks > 1 ? ScheduleKind::Interleaved : ScheduleKind::OneFOneB;
  l.micro_batch = row.micro;
  l.micro_batches = row.batch / l.mesh.data / row.micro;
  estimates.cut_stages(l);
  const LayoutEstimate e = estimates.estimate(l);
  fmt::print("{}\n", nlohmann::json{{"model", row.name},
                                    {"parameters", format_count(parameter_count(row.model))},
                                    {"ranks", row.ranks},
                                    {"layout", to_text(l)},
                                    {"step_s", e.step_s},
                                    {"bubble", e.bubble},
                                    {"exposed_s", e.exposed_s},
                                    {"mfu", e.mfu},
                                    {"mfu_published", row.published},
                                    {"bound_bytes", e.memory_bound_bytes}}
                         .dump());
}

}  // namespace
}  // namespace plimsoll

// layout_bench [FILE]: another description than configs/clusters/h100.yaml.
int main(int argc, char** argv) {
  using namespace plimsoll;
  const ClusterDescription cluster = load_cluster(argc > 1 ? argv[1] : "configs/clusters/h100.yaml");
  plan_large("llama-3-70b", llama(80, 8192, 64, 8, 28672, 128256, 8192), cluster);
  plan_large("llama-3.1-405b", llama(126, 16384, 128, 8, 53248, 128256, 8192), cluster);
  // Hidden sizes, layers and batches are ours, such that the parameters agree; the rest is the table's.
  megatron_row({"1.7B", gpt(24, 2048, 16), 48, 1, 1, 1, 192, 4, 0.41}, cluster);
  megatron_row({"7.1B", gpt(30, 4096, 32), 96, 1, 1, 1, 384, 4, 0.47}, cluster);
  megatron_row({"70B", gpt(84, 8192, 64), 768, 8, 2, 1, 768, 4, 0.42}, cluster);
  megatron_row({"462B", gpt(112, 18432, 96), 6144, 8, 16, 7, 1536, 1, 0.47}, cluster);
}
