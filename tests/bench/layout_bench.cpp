// The layout planner on clusters that nobody has here: how long it thinks about 10,000 ranks, and the MFU that it
// predicts for runs of the sizes of Megatron-LM's table on H100s (sequence 4096, vocabulary 131072), on as many ranks
// and with the same tensor and pipeline sizes, beside the published one. Prints JSON lines. In bf16; bytes are those of
// plans.

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "launch/layout_choice.hpp"
#include "launch/run_setup.hpp"
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

Config bf16_config(const ModelConfig& model, std::int64_t sequence, std::int64_t batch) {
  Config c;
  c.model = model;
  c.precision = DType::bf16;
  c.data.sequence = sequence;
  c.train.global_batch = batch;
  c.parallel.automatic = true;
  return c;
}

Place place_of(int ranks) { return {0, ranks, 0, ranks}; }

void plan_large(const char* name, const ModelConfig& model, const ClusterDescription& cluster) {
  constexpr int kRanks = 10000;
  Config config = bf16_config(model, 8192, kRanks);
  const DescribedCosts costs(cluster);
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t cpu = std::clock();
  const LayoutChoice choice = *choose_layout(config, place_of(kRanks), {cluster, &costs}, cluster.device.memory_bytes,
                                             cluster.device.outside_bytes);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  nlohmann::json json{
      {"model", name},         {"ranks", kRanks},       {"parameters", format_count(parameter_count(model))},
      {"planning_s", seconds}, {"tried", choice.tried}, {"planned", choice.planned}};
  json["planning_cpu_s"] = static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
  for (const RankedLayout& r : choice.best) {
    json["best"].push_back({{"layout", to_text(r.layout)},
                            {"step_s", r.estimate.step_s},
                            {"mfu", r.estimate.mfu},
                            {"arena_bytes", r.exact->arena_bytes}});
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

// Recomputed is what the memory of a device asks for.
void megatron_row(const Row& row, const ClusterDescription& cluster) {
  const DescribedCosts costs(cluster);
  Config config = bf16_config(row.model, 4096, row.batch);
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
  LayoutCosts(layout_problem(config, row.ranks, 0), {cluster, &costs}).cut_stages(l);
  use_layout(config, l);
  const RankedLayout r = predict_layout(config, place_of(row.ranks), {cluster, &costs}, cluster.device.memory_bytes,
                                        cluster.device.outside_bytes)
                             .best.front();
  fmt::print("{}\n", nlohmann::json{{"model", row.name},
                                    {"parameters", format_count(parameter_count(row.model))},
                                    {"ranks", row.ranks},
                                    {"layout", to_text(r.layout)},
                                    {"step_s", r.estimate.step_s},
                                    {"bubble", r.estimate.bubble},
                                    {"exposed_s", r.estimate.exposed_s},
                                    {"recompute_s", r.estimate.recompute_s},
                                    {"mfu", r.estimate.mfu},
                                    {"mfu_published", row.published},
                                    {"arena_bytes", r.exact->arena_bytes}}
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
