#include "runtime/plan/recompute_layer.hpp"

#include <gtest/gtest.h>

#include "runtime/core/error.hpp"
#include "runtime/plan/recompute_options.hpp"
#include "tests/runtime/plan/random_layers.hpp"

namespace plimsoll {
namespace {

constexpr Fate K = Fate::Keep, D = Fate::Drop, O = Fate::Offload;

TEST(RecomputeLayer, EqualsANaiveAccount) {
  std::mt19937 random(1);
  int possible = 0, impossible = 0;
  for (int trial = 0; trial < 400; ++trial) {
    LayerKind kind = random_layer(random, 1 + trial % 8);
    kind.saved_apart = trial % 3 == 0;
    for (int set = 0; set < 20; ++set) {
      std::vector<Fate> fates(kind.tensors.size(), D);
      std::set<int> keep{0};
      fates[0] = K;
      for (std::size_t v = 1; v + 1 < fates.size(); ++v) {
        if (random() % 2 == 0) continue;
        fates[v] = K;
        keep.insert(static_cast<int>(v));
      }
      const auto option = simulate_layer(kind, fates, 1, nullptr);
      const auto naive = naive_cost(kind, keep);
      ASSERT_EQ(option.has_value(), naive.has_value());
      (naive ? possible : impossible) += 1;
      if (!naive) continue;
      EXPECT_EQ(option->saved_bytes, naive->saved);
      EXPECT_EQ(option->forward_peak_bytes, naive->forward_peak);
      EXPECT_EQ(option->backward_peak_bytes, naive->backward_peak);
      EXPECT_EQ(option->seconds, naive->seconds);
    }
  }
  EXPECT_GT(possible, 4000);
  EXPECT_GT(impossible, 500);
}

// x -> a -> b -> next, backward reads b, then a.
LayerKind chain() {
  LayerKind kind;
  kind.name = "chain";
  kind.tensors = {{.name = "x", .bytes = 10, .always_kept = true},
                  {.name = "a", .bytes = 100, .made_from = {0}, .seconds = 3},
                  {.name = "b", .bytes = 40, .made_from = {1}, .seconds = 5, .collective_seconds = 2},
                  {.name = "next", .bytes = 10, .made_from = {2}, .seconds = 1}};
  kind.output = 3;
  kind.gradients = {{"d_next", 10}, {"d_b", 40}, {"d_a", 100}, {"d_x", 10}};
  kind.steps = {{.name = "b", .seconds = 4, .reads = {2}, .makes = {1}, .uses = {0}},
                {.name = "a", .seconds = 4, .reads = {1}, .makes = {2}, .uses = {1}},
                {.name = "x", .seconds = 4, .reads = {0}, .makes = {3}, .uses = {2}}};
  return kind;
}

TEST(RecomputeLayer, PeaksAndCosts) {
  const LayerKind kind = chain();
  const auto all = simulate_layer(kind, {K, K, K, D}, 1, nullptr);
  EXPECT_EQ(all->saved_bytes, 150);
  EXPECT_EQ(all->forward_peak_bytes, 160);
  EXPECT_EQ(all->backward_peak_bytes, 250);  // x, a, d_b, d_a
  EXPECT_EQ(all->seconds, 0);
  const auto none = simulate_layer(kind, {K, D, D, D}, 1, nullptr);
  EXPECT_EQ(none->saved_bytes, 10);
  EXPECT_EQ(none->forward_peak_bytes, 150);
  EXPECT_EQ(none->seconds, 10);  // the collective runs again, `next` is not made again
}

TEST(RecomputeLayer, KeptWithAnotherOrNever) {
  LayerKind kind = chain();
  kind.tensors[2].kept_with = 1;
  EXPECT_FALSE(simulate_layer(kind, {K, D, K, D}, 1, nullptr));
  EXPECT_TRUE(simulate_layer(kind, {K, K, D, D}, 1, nullptr));
  EXPECT_TRUE(simulate_layer(kind, {K, D, D, D}, 1, nullptr));
  for (const LayerOption& option : layer_options(kind, {}).options)
    EXPECT_FALSE(option.fates[1] == D && option.fates[2] == K);
  kind.tensors[2].kept_with = 2;
  EXPECT_THROW(check_layer_kind(kind), Error);
  kind.tensors[2].kept_with = -1;
  kind.steps[1].reads.clear();
  kind.tensors[1].never_kept = true;
  ASSERT_EQ(layer_options(kind, {}).options.size(), 2U) << "b is kept, or made again through a";
  for (const LayerOption& option : layer_options(kind, {}).options) EXPECT_EQ(option.fates[1], D);
  EXPECT_EQ(keep_everything(kind).fates, (std::vector<Fate>{K, D, K, D}));
}

// In slots: what is saved takes part in no peak.
TEST(RecomputeLayer, SavedApart) {
  LayerKind kind = chain();
  kind.saved_apart = true;
  const auto all = simulate_layer(kind, {K, K, K, D}, 1, nullptr);
  EXPECT_EQ(all->saved_bytes, 150);
  EXPECT_EQ(all->forward_peak_bytes, 10);    // next
  EXPECT_EQ(all->backward_peak_bytes, 140);  // d_b, d_a
}

TEST(RecomputeLayer, OffloadWithoutOverlapStandsBetweenCompute) {
  const LayerKind kind = chain();
  const HostLink link{50, 25, 0.5, false};
  const auto option = simulate_layer(kind, {K, O, K, D}, 1, &link);
  EXPECT_EQ(option->saved_bytes, 50);
  EXPECT_EQ(option->host_bytes, 100);
  EXPECT_EQ(option->seconds, 100 / 50.0 + 100 / 25.0 + 1);
  EXPECT_EQ(option->forward_peak_bytes, 150);
  EXPECT_EQ(option->backward_peak_bytes, 250);
}

TEST(RecomputeLayer, OffloadWithOverlapCostsTheWaitingOnly) {
  const LayerKind kind = chain();
  // a is made at 3 s and copied by 5 s, before forward ends at 11 s; backward needs it at 4 s, when it has come.
  const HostLink fast{50, 25, 0, true};
  const auto hidden = simulate_layer(kind, {K, O, K, D}, 1, &fast);
  EXPECT_EQ(hidden->seconds, 0);
  EXPECT_EQ(hidden->saved_bytes, 50);
  EXPECT_EQ(hidden->forward_peak_bytes, 160);  // what is copied stays to the end of forward
  EXPECT_EQ(hidden->backward_peak_bytes, 250);
  // Copied by 23 s, 12 s after forward, of which 3 s are before the next layer has its own. Its way back begins four
  // steps ahead, three of them of the layer behind: at -12 s. So it is here again at 8 s, 4 s after it was needed.
  const HostLink slow{5, 5, 0, true};
  EXPECT_EQ(simulate_layer(kind, {K, O, K, D}, 1, &slow)->seconds, 9 + 4);
  // b is made at 10 s, and then compute may be given the bytes of a, which leave until 23 s; b leaves until 31 s, which
  // is 3 s too many for the link. Backward needs b first, which comes back from -12 s to -4 s; then a at 4 s, which
  // comes from -4 s to 16 s.
  EXPECT_EQ(simulate_layer(kind, {K, O, O, D}, 1, &slow)->seconds, (31 - 3 - 11) + 12);
  // Whatever it waits for, the link has its price.
  HostLink priced = fast;
  priced.price = 0.5;
  EXPECT_EQ(simulate_layer(kind, {K, O, K, D}, 1, &priced)->seconds, 0.5 * (2 + 4));
  EXPECT_FALSE(simulate_layer(kind, {K, O, K, D}, 1, nullptr));
  EXPECT_FALSE(simulate_layer(kind, {O, K, K, D}, 1, &slow));  // the boundary stays
}

TEST(RecomputeLayer, ATensorOfSeveralValuesIsSeveralCopies) {
  LayerKind kind = chain();
  kind.tensors[1].copies = 3;
  kind.tensors[1].host_bytes = 128;  // with padding
  const HostLink link{50, 25, 0.5, false};
  const auto option = simulate_layer(kind, {K, O, K, D}, 1, &link);
  EXPECT_EQ(option->seconds, 100 / 50.0 + 100 / 25.0 + 3);
  EXPECT_EQ(option->host_bytes, 128);
  kind.host_limit_bytes = 128;
  EXPECT_TRUE(simulate_layer(kind, {K, O, K, D}, 1, &link));
  kind.host_limit_bytes = 127;
  EXPECT_FALSE(simulate_layer(kind, {K, O, K, D}, 1, &link));
  for (const LayerOption& o : layer_options(kind, {.link = &link}).options) EXPECT_NE(o.fates[1], O);
}

TEST(RecomputeLayer, BlocksOfRowsDivideWhatIsWithin) {
  LayerKind kind = chain();
  kind.tensors[1].bytes = 20;
  kind.tensors[2].bytes = 100;
  kind.gradients = {{"d_next", 10}, {"d_b", 100}, {"d_a", 20}, {"d_x", 10}};
  kind.rows = RowSplit{.tensors = {2}, .first_step = 0, .last_step = 1, .parts = {{2, 0.25}, {4, 0.75}}};
  const auto whole = simulate_layer(kind, {K, K, D, D}, 1, nullptr);
  EXPECT_EQ(whole->forward_peak_bytes, 10 + 20 + 100 + 10);
  EXPECT_EQ(whole->backward_peak_bytes, 10 + 20 + 10 + 100 + 100);
  const auto split = simulate_layer(kind, {K, K, D, D}, 4, nullptr);
  EXPECT_EQ(split->forward_peak_bytes, 10 + 20 + 25 + 10);
  EXPECT_EQ(split->backward_peak_bytes, 10 + 20 + 10 + 20 + 25 + 25);  // d_a is whole from the first block on
  EXPECT_EQ(split->seconds, whole->seconds + 3 * 0.25);
  EXPECT_FALSE(simulate_layer(kind, {K, K, K, D}, 4, nullptr));  // a block's tensor is not kept
}

TEST(RecomputeLayer, WrongDescriptionsAreNamed) {
  const auto message = [](const std::function<void(LayerKind&)>& spoil) -> std::string {
    LayerKind kind = chain();
    spoil(kind);
    try {
      check_layer_kind(kind);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message([](LayerKind&) {}), "");
  EXPECT_NE(message([](LayerKind& k) { k.tensors[1].made_from = {2}; }).find("chain: tensor a"), std::string::npos);
  EXPECT_NE(message([](LayerKind& k) { k.tensors[2].seconds = -1; }).find("tensor b"), std::string::npos);
  EXPECT_NE(message([](LayerKind& k) { k.tensors[1].made_from = {}; }).find("tensor a"), std::string::npos);
  EXPECT_NE(message([](LayerKind& k) { k.steps[1].reads = {4}; }).find("backward step a"), std::string::npos);
  EXPECT_NE(message([](LayerKind& k) { k.gradients[1].bytes = -1; }).find("d_b"), std::string::npos);
  EXPECT_NE(message([](LayerKind& k) { k.output = 4; }).find("output"), std::string::npos);
  EXPECT_NE(message([](LayerKind& k) { k.rows = RowSplit{.tensors = {2}, .last_step = 3}; }).find("row-split"),
            std::string::npos);
}

}  // namespace
}  // namespace plimsoll
