// `memory.recompute: auto` where copies to host memory run beside compute, on the link of a real machine.

#include <gtest/gtest.h>

#include <filesystem>

#include "launch/cluster_file.hpp"
#include "launch/recompute_report.hpp"
#include "runtime/graph/row_splits.hpp"
#include "tests/launch/recompute_cases.hpp"

namespace plimsoll {
namespace {

using namespace test;

DescribedCosts h200() {
  return DescribedCosts(
      load_cluster((std::filesystem::path(PLIMSOLL_SOURCE_DIR) / "configs/clusters/h200.yaml").string()));
}

// An eighth of the width of Llama-3-8B would leave nothing for compute to hide copies behind, so it is half of it.
ProgramOptions llama(HostMemory host) {
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.model.layers = 12;
  o.model.hidden = 2048;
  o.model.heads = 16;
  o.model.kv_heads = 4;
  o.model.ffn = 7168;
  o.model.vocabulary = 8192;
  o.model.positions = 8192;
  o.model = resolve(o.model);
  o.dtype = DType::bf16;
  o.sequence = 8192;
  o.micro_batch = 1;
  o.host = host;
  return o;
}

constexpr HostMemory kBeside{kNoHostLimit, true, true};

// All layers but the last keep what is dear to make; every k-th of them sends some of that away instead.
std::vector<LayerRecompute> by_hand(int layers, int every, const std::vector<std::string>& sent) {
  std::vector<LayerRecompute> list(static_cast<std::size_t>(layers));
  for (int l = 0; l + 1 < layers; ++l) {
    LayerRecompute& layer = list[static_cast<std::size_t>(l)];
    layer.mode = RecomputeMode::Auto;
    layer.keep = {"attention.rope.y", "attention.out", "attention.lse", "post_attention_layernorm.sum",
                  "mlp.gate_up.y"};
    if (l > 0) layer.keep.emplace_back("input_layernorm.sum");
    if (l == 0 || l % every != 0) continue;
    std::erase_if(layer.keep,
                  [&](const std::string& v) { return std::find(sent.begin(), sent.end(), v) != sent.end(); });
    layer.offload = sent;
  }
  return list;
}

double added_seconds(const RecomputeChoice& choice) { return choice.stages.front().plan.seconds; }

TEST(OffloadBeside, IsAsGoodAsListsByHandAndNeverWorseThanWithout) {
  const DescribedCosts costs = h200();
  const ProgramOptions o = llama(kBeside), alone = llama({});
  const std::vector<std::vector<std::string>> sets{
      {"mlp.gate_up.y"},
      {"attention.rope.y"},
      {"post_attention_layernorm.sum"},
      {"attention.out", "attention.lse"},
      {"input_layernorm.sum", "post_attention_layernorm.sum", "attention.rope.y"}};
  int better = 0;
  for (const std::vector<std::string>& sent : sets) {
    for (const int every : {1, 2, 3}) {
      SCOPED_TRACE(fmt::format("{} in every {}", sent.front(), every));
      ProgramOptions hand = o;
      hand.recompute = by_hand(static_cast<int>(o.model.layers), every, sent);
      const Outcome outcome = outcome_of(hand, costs);
      ASSERT_GT(outcome.host, 0);
      const RecomputeChoice choice = choose_recompute(o, costs, outcome.bytes);
      ASSERT_TRUE(choice.fits);
      const StageChoice& stage = choice.stages.front();
      const double step = stage.graph.micro_batch_seconds;
      // Bytes of plans come in steps: 0.2 % of a micro-batch is as good.
      EXPECT_LE(added_seconds(choice), outcome.seconds + 2e-3 * step);
      EXPECT_LE(stage.plan.bound_seconds, stage.plan.seconds);
      ProgramOptions chosen = o;
      chosen.recompute = choice.layers;
      const Outcome made = outcome_of(chosen, costs);
      EXPECT_LE(made.bytes, outcome.bytes);
      EXPECT_NEAR(made.seconds, added_seconds(choice), 1e-9 * step) << "what is said is what is played";
      const RecomputeChoice without = choose_recompute(alone, costs, outcome.bytes);
      EXPECT_LE(added_seconds(choice), added_seconds(without));
      better += added_seconds(choice) < added_seconds(without) - 1e-3 * step ? 1 : 0;
    }
  }
  EXPECT_GE(better, 10) << "copies that compute hides cost nothing";
}

TEST(OffloadBeside, StaysWithinTheHostBudgetAndItsBoundsAreTrue) {
  const DescribedCosts costs = h200();
  ProgramOptions o = llama({});
  const std::int64_t none = outcome_of(o, costs).bytes, least = least_without_row_splits(o, costs);
  for (const int percent : {80, 50, 20}) {
    SCOPED_TRACE(percent);
    const std::int64_t budget = least + (none - least) * percent / 100;
    const RecomputeChoice without = choose_recompute(llama({}), costs, budget);
    for (const std::int64_t host : {kNoHostLimit, std::int64_t{1} << 30, std::int64_t{100} << 20, std::int64_t{1}}) {
      SCOPED_TRACE(host);
      o = llama({host, true, true});
      const RecomputeChoice choice = choose_recompute(o, costs, budget);
      ASSERT_TRUE(choice.fits);
      o.recompute = choice.layers;
      const Outcome made = outcome_of(o, costs);
      EXPECT_LE(made.host, host);
      EXPECT_LE(made.bytes, budget);
      EXPECT_LE(added_seconds(choice), added_seconds(without));
      const StageChoice &with = choice.stages.front(), &other = without.stages.front();
      EXPECT_LE(with.plan.bound_seconds, with.plan.seconds);
      if (other.model_bytes <= with.model_bytes) {
        EXPECT_LE(with.plan.bound_seconds, other.plan.seconds);
      }
    }
  }
}

// What layouts are compared by: plans that are true, and little dearer than those of the one that is chosen.
TEST(OffloadBeside, QuickChoicesFitAndAreBoundsOfThoroughOnes) {
  const DescribedCosts costs = h200();
  ProgramOptions o = llama({});
  const std::int64_t none = outcome_of(o, costs).bytes, least = least_without_row_splits(o, costs);
  for (const int percent : {70, 30}) {
    SCOPED_TRACE(percent);
    const std::int64_t budget = least + (none - least) * percent / 100;
    const RecomputeChoice without = choose_recompute(llama({}), costs, budget, true, Effort::Quick);
    EXPECT_EQ(without.layers, choose_recompute(llama({}), costs, budget).layers);
    for (const std::int64_t host : {kNoHostLimit, std::int64_t{200} << 20}) {
      SCOPED_TRACE(host);
      o = llama({host, true, true});
      const RecomputeChoice quick = choose_recompute(o, costs, budget, true, Effort::Quick);
      ASSERT_TRUE(quick.fits);
      o.recompute = quick.layers;
      const Outcome made = outcome_of(o, costs);
      EXPECT_LE(made.bytes, budget);
      EXPECT_LE(made.host, host);
      const double step = quick.stages.front().graph.micro_batch_seconds;
      EXPECT_NEAR(made.seconds, added_seconds(quick), 1e-9 * step);
      EXPECT_LE(added_seconds(quick), added_seconds(without) + 2e-3 * step);
      EXPECT_LE(added_seconds(choose_recompute(o, costs, budget)), added_seconds(quick));
    }
  }
}

// The clock of copies: what comes back finds memory no earlier than its place in the program says, and what leaves
// holds its own until the next value leaves.
TEST(OffloadBeside, ALargeValueCannotComeBackBehindFourNodes) {
  const DescribedCosts costs = h200();
  const auto seconds = [&](const std::vector<std::string>& sent) {
    ProgramOptions hand = llama(kBeside);
    hand.recompute = by_hand(static_cast<int>(hand.model.layers), 2, sent);
    return offload_seconds(rewritten_graph(hand).graph, costs, true);
  };
  EXPECT_GT(seconds({"mlp.gate_up.y"}), 5e-3);
  EXPECT_LT(seconds({"post_attention_layernorm.sum"}), 1e-6);
}

// With no bytes of host memory there is no third choice, nor a weaker certificate.
TEST(OffloadBeside, AHostBudgetOfNothingIsNone) {
  const DescribedCosts costs = h200();
  const std::int64_t none = planned_bytes(choose_programs(config_of(), {}, Purpose::Train, 0, 0));
  const auto choose = [&](const std::vector<std::string>& overrides) {
    std::optional<RecomputeChoice> choice;
    const Config config = config_of(overrides);
    choose_programs(config, {}, Purpose::Train, none * 7 / 10, 0, config.memory.host_budget.value_or(kNoHostLimit),
                    &costs, nullptr, &choice);
    return choice.value();
  };
  const RecomputeChoice without = choose({}), with = choose({"memory.host_budget=0"});
  EXPECT_EQ(with.layers, without.layers);
  ASSERT_FALSE(without.stages.front().plan.layers.empty());
  EXPECT_EQ(with.stages.front().plan.bound_seconds, without.stages.front().plan.bound_seconds);
  EXPECT_EQ(with.stages.front().plan.seconds, without.stages.front().plan.seconds);
}

TEST(OffloadBeside, BoundariesGoWhereAllElseNeedsMore) {
  const DescribedCosts costs = h200();
  ProgramOptions hand = llama(kBeside);
  hand.recompute.assign(static_cast<std::size_t>(hand.model.layers), {RecomputeMode::Full, {}});
  for (std::size_t l = 1; l + 1 < hand.recompute.size(); ++l) {
    hand.recompute[l].mode = RecomputeMode::Auto;
    hand.recompute[l].offload = {"input_layernorm.sum"};
  }
  const Outcome sent = outcome_of(hand, costs);
  const std::int64_t least = least_without_row_splits(llama({}), costs);
  ASSERT_LT(sent.bytes, least);
  for (const std::int64_t room : {sent.host, std::int64_t{kNoHostLimit}}) {
    ProgramOptions o = llama({room, true, true});
    o.row_splits = true;
    for (const std::int64_t budget : {sent.bytes, (sent.bytes + least) / 2}) {
      const RecomputeChoice choice = choose_recompute(o, costs, budget);
      ASSERT_TRUE(choice.fits) << budget << ", " << room;
      o.recompute = choice.layers;
      const Outcome outcome = outcome_of(o, costs);
      EXPECT_LE(outcome.bytes, budget);
      EXPECT_LE(outcome.host, room);
      EXPECT_FALSE(has_row_splits(choice.layers)) << budget << ", " << room;
      EXPECT_LE(outcome.seconds, sent.seconds * (1 + 1e-9)) << budget << ", " << room;
      EXPECT_NEAR(added_seconds(choice), outcome.seconds, 1e-9);
      EXPECT_LE(choice.stages.front().plan.bound_seconds, outcome.seconds);
    }
  }
}

// Codes of one byte are values like others: what is said is what is planned and played, down to where boundaries go.
TEST(OffloadBeside, LinearsInFp8AreAsTrue) {
  const DescribedCosts costs = h200();
  ProgramOptions o = llama({});
  o.fp8 = true;
  const std::int64_t none = outcome_of(o, costs).bytes, least = least_without_row_splits(o, costs);
  ASSERT_LT(none, outcome_of(llama({}), costs).bytes);
  std::int64_t sent = 0;  // above the least
  for (const int percent : {60, 20, -2}) {
    SCOPED_TRACE(percent);
    const std::int64_t budget = least + (none - least) * percent / 100;
    ProgramOptions with = o;
    with.host = kBeside;
    const RecomputeChoice choice = choose_recompute(with, costs, budget);
    ASSERT_TRUE(choice.fits);
    with.recompute = choice.layers;
    const Outcome made = outcome_of(with, costs);
    EXPECT_LE(made.bytes, budget);
    sent += percent > 0 ? made.host : 0;
    EXPECT_NEAR(made.seconds, added_seconds(choice), 1e-9);
    EXPECT_LE(choice.stages.front().plan.bound_seconds, made.seconds);
    const RecomputeChoice without = choose_recompute(o, costs, budget);
    ASSERT_TRUE(without.fits || percent < 0);
    if (without.fits) {
      EXPECT_LE(added_seconds(choice), added_seconds(without));
    }
  }
  EXPECT_GT(sent, 0);
}

TEST(OffloadBeside, WhereNothingFitsItNeedsNoMoreThanSendingAllOrBoundariesBesideRowSplits) {
  const DescribedCosts costs = h200();
  ProgramOptions o = llama(kBeside);
  o.row_splits = true;
  o.recompute.assign(static_cast<std::size_t>(o.model.layers), {RecomputeMode::Full, {}});
  for (std::size_t l = 0; l < o.recompute.size(); ++l) {
    o.recompute[l].rows = 4;
    if (l == 0) continue;
    o.recompute[l].mode = RecomputeMode::Auto;
    o.recompute[l].offload = {"input_layernorm.sum"};
  }
  const std::int64_t rows = outcome_of(o, costs).bytes;
  o.recompute.clear();
  const RecomputeChoice choice = choose_recompute(o, costs, 1);
  EXPECT_FALSE(choice.fits);
  const StageChoice& stage = choice.stages.front();
  EXPECT_LE(stage.plan.bound_seconds, stage.plan.seconds);
  o.recompute.assign(static_cast<std::size_t>(o.model.layers), {RecomputeMode::Offload, {}});
  EXPECT_LE(stage.arena_bytes, outcome_of(o, costs).bytes);
  EXPECT_LE(stage.arena_bytes, rows);
}

}  // namespace
}  // namespace plimsoll
