#pragma once
// Random small models on random meshes with everything that changes a plan.

#include <optional>
#include <set>
#include <string>

#include "launch/run_setup.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/rng.hpp"

namespace plimsoll::test {

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed, "plan_fuzz") {}
  std::int64_t to(std::int64_t n) {  // 0 … n - 1
    return std::min(n - 1, static_cast<std::int64_t>(random_.uniform(next_++) * static_cast<double>(n)));
  }
  template <class T>
  T of(std::initializer_list<T> all) {
    return all.begin()[to(std::ssize(all))];
  }
  bool one_in(std::int64_t n) { return to(n) == 0; }
  double share() { return random_.uniform(next_++); }

 private:
  RandomStream random_;
  std::uint64_t next_ = 0;
};

struct Case {
  Config config;
  int ranks = 1;
};

inline constexpr int kMostRanks = 8;

inline ModelConfig random_model(Draw& draw, std::int64_t least_layers) {
  ModelConfig m = family_defaults(draw.of({ModelFamily::Gpt2, ModelFamily::Llama}));
  m.layers = std::max(least_layers, 1 + draw.to(4));
  m.heads = draw.of({2, 4, 6});
  m.hidden = m.heads * draw.of({4, 6, 8});
  if (m.family == ModelFamily::Llama) {
    m.kv_heads = draw.to(2) == 0 ? m.heads : 2;
    m.ffn = 8 * (2 + draw.to(9));
    m.tied = draw.to(2) == 0;
  }
  m.vocabulary = 20 + draw.to(200);
  m.positions = 64;
  m.dropout = draw.one_in(3) ? 0.1 : 0;
  return resolve(m);
}

// The mesh and what goes over it, without a model.
inline ParallelConfig random_parallel(Draw& draw) {
  ParallelConfig p;
  p.pipeline = draw.of({1, 1, 2, 2, 3});
  p.tensor = draw.of({1, 1, 1, 2, 2, 4});
  p.data = draw.of({1, 1, 2, 2, 4});
  p.zero = draw.to(4);
  if (*p.zero > 0 && *p.data > 1 && draw.one_in(4)) p.shard = *p.data / 2;
  p.sequence = p.tensor > 1 && draw.to(2) == 0;
  if (p.tensor > 1 && draw.one_in(4)) p.tensor_chunks = 2;
  if (p.pipeline > 1) {
    using enum ScheduleKind;
    p.schedule = draw.of({GPipe, OneFOneB, ZbH1, Interleaved});
    if (p.schedule == Interleaved) p.interleave = draw.of({2, 2, 3});
  }
  return p;
}

// A mode for each layer, or some of the values that it makes, of which some wait in host memory.
inline std::vector<LayerRecompute> random_layers(Draw& draw, const ProgramOptions& o) {
  std::vector<LayerRecompute> layers(static_cast<std::size_t>(o.model.layers));
  for (int stage = 0; stage < o.mesh.pipeline; ++stage) {
    for (const auto& [layer, values] : recomputable_values(keeping_graph(at_stage(o, stage)).graph)) {
      LayerRecompute& with = layers[static_cast<std::size_t>(layer)];
      using enum RecomputeMode;
      with.mode = draw.of({None, Full, Selective, Offload, Auto, Auto, Auto});
      for (const RecomputableValue& value : values) {
        if (with.mode != Auto || draw.to(2) == 0) continue;
        (draw.one_in(4) ? with.offload : with.keep).push_back(value.name);
      }
    }
  }
  return layers;
}

// As a person writes it and a run reads it; nullopt: it is no valid configuration.
inline std::optional<Config> read_again(const Config& config, int ranks) {
  try {
    Config read = parse_config(dump_config(config), "random case");
    check_for_ranks(read, ranks);
    return read;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Config) throw;
    return std::nullopt;
  }
}

inline void draw_batch(Draw& draw, Config& config, std::int64_t replicas) {
  config.train.global_batch = replicas * draw.of({1, 2, 4, 6});
  if (draw.one_in(3)) config.train.micro_batch = draw.of({1, 1, 2});
  ParallelConfig& p = config.parallel;
  if (p.tensor_chunks != 1) config.train.micro_batch = 2;
  const std::int64_t even = config.train.global_batch / replicas;
  if (!p.automatic && replicas == 2 && even > 1 && draw.one_in(4)) {
    config.train.micro_batch = 1;
    const std::int64_t more = draw.to(even);
    p.shares = {even + more, even - more};
  }
}

inline void draw_sizes(Draw& draw, Config& config) {
  const ParallelConfig& p = config.parallel;
  const int zero = static_cast<int>(p.zero.value_or(0));
  if (draw.one_in(3)) config.memory.logits = 1 << (8 + draw.to(6));
  if (zero == 0 && !p.automatic && draw.one_in(3)) config.comm.bucket = 1 << (8 + draw.to(8));
  if (zero == 3 && draw.one_in(2)) config.comm.prefetch = draw.to(4);
  if (zero == 3 && draw.one_in(3)) config.comm.gather = 1 << (10 + draw.to(8));
  if (p.pipeline > 1 && p.tensor == 1 && config.train.micro_batch && draw.one_in(3)) config.comm.pipeline_chunks = 2;
}

// nullopt: a combination that is not allowed.
inline std::optional<Case> random_case(Draw& draw) {
  Case c;
  Config& config = c.config;
  ParallelConfig& p = config.parallel;
  p = random_parallel(draw);
  const std::int64_t ranks = p.pipeline * p.tensor * *p.data;
  if (ranks > kMostRanks) return std::nullopt;
  c.ranks = static_cast<int>(ranks);
  const bool automatic = draw.one_in(8);
  config.model = random_model(draw, automatic ? 1 : p.pipeline * p.chunks());
  if (automatic) {
    p = {};
    p.automatic = true;
  }
  config.data.train = {{"none"}};
  config.data.sequence = 2 * (2 + draw.to(11));
  config.data.validation = draw.one_in(3) ? 0.1 : 0;
  config.run.threads = 1;
  config.precision = draw.of({DType::f32, DType::f32, DType::f32, DType::f32, DType::bf16, DType::bf16, DType::f16});
  if (config.precision == DType::bf16 && p.tensor_chunks == 1 && draw.one_in(2)) config.fp8 = Fp8Use::Linears;
  config.optimizer.name = draw.one_in(4) ? OptimizerName::Sgd : OptimizerName::AdamW;
  draw_batch(draw, config, automatic ? ranks : *p.data);
  draw_sizes(draw, config);
  using enum RecomputeMode;
  config.memory.recompute = draw.of({None, Full, Selective, Offload, Auto, Auto, Auto});
  std::optional<Config> read = read_again(config, c.ranks);
  if (read && !automatic && draw.one_in(5)) {
    Config plain = *read;
    plain.memory.recompute = None;
    config.memory.recompute_layers =
        random_layers(draw, choose_programs(plain, {0, c.ranks, 0, c.ranks}, Purpose::Train, 0, 0));
    config.memory.recompute = None;
    read = read_again(config, c.ranks);
  }
  if (!read) return std::nullopt;
  c.config = *std::move(read);
  return c;
}

// What a case has beyond a plain mesh.
inline std::set<std::string> features(const Case& c) {
  const ParallelConfig& p = c.config.parallel;
  const MemoryConfig& m = c.config.memory;
  const auto some = [&m](const auto& has) {
    return std::any_of(m.recompute_layers.begin(), m.recompute_layers.end(), has);
  };
  std::set<std::string> all;
  const auto add = [&all](bool has, const char* name) {
    if (has) all.insert(name);
  };
  add(p.pipeline > 1 && p.chunks() > 1, "interleaved");
  add(p.sequence.value_or(false), "sequence parallel");
  add(p.automatic, "parallel: auto");
  add(!c.config.train.micro_batch, "micro_batch: auto");
  add(c.config.precision == DType::bf16, "bf16");
  add(c.config.fp8 != Fp8Use::Off, "fp8");
  add(m.recompute == RecomputeMode::Auto && m.host_budget.has_value(), "host memory offered");
  add(m.recompute == RecomputeMode::Offload ||
          some([](const LayerRecompute& l) { return l.mode == RecomputeMode::Offload || !l.offload.empty(); }),
      "offload");
  add(some([](const LayerRecompute& l) { return !l.keep.empty(); }), "keep lists");
  add(c.ranks == kMostRanks, "8 ranks");
  return all;
}

}  // namespace plimsoll::test
