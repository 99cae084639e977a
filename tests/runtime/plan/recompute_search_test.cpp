#include "runtime/plan/recompute_search.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

namespace plimsoll {
namespace {

RecomputeItems random_items(std::mt19937& random, int layers, int choices, std::int64_t most_bytes, int in_flight) {
  RecomputeItems items{
      .at = {}, .in_flight = in_flight, .head_bytes = static_cast<std::int64_t>(random()) % most_bytes};
  for (int l = 0; l < layers; ++l) {
    auto& at = items.at.emplace_back();
    for (int c = 0; c < choices; ++c) {
      const auto saved = static_cast<std::int64_t>(random()) % most_bytes + 1;
      const auto beside = static_cast<std::int64_t>(random()) % most_bytes;
      // The more is kept the less it costs, more or less.
      const auto ps = (most_bytes - saved) * 1000 + static_cast<std::int64_t>(random()) % (most_bytes * 300);
      at.push_back({1, saved, saved + beside, c == 0 ? 0 : ps, l * choices + c});
    }
    at[0].saved_bytes = most_bytes;
    at[0].peak_bytes = 2 * most_bytes;
  }
  return items;
}

// The largest sum of saved bytes that cost nothing, as a budget.
std::int64_t everything(const RecomputeItems& items) {
  std::vector<RecomputeItem> chosen;
  for (const auto& at : items.at) chosen.push_back(at[0]);
  return items_peak_bytes(chosen, items.in_flight, items.head_bytes, items.apart);
}

std::int64_t brute_force(const RecomputeItems& items, std::int64_t budget) {
  std::int64_t best = -1;
  std::vector<RecomputeItem> chosen;
  const std::function<void(std::size_t, std::int64_t)> extend = [&](std::size_t layer, std::int64_t ps) {
    if (layer == items.at.size()) {
      const bool fits = items_peak_bytes(chosen, items.in_flight, items.head_bytes, items.apart) <= budget;
      if (fits && (best < 0 || ps < best)) best = ps;
      return;
    }
    for (const RecomputeItem& item : items.at[layer]) {
      if (layer + item.span > items.at.size()) continue;
      chosen.push_back(item);
      extend(layer + item.span, ps + item.ps);
      chosen.pop_back();
    }
  };
  extend(0, 0);
  return best;
}

TEST(RecomputeSearch, PeakOfItems) {
  const std::vector<RecomputeItem> chosen{{1, 10, 50, 0}, {1, 20, 25, 0}, {1, 5, 70, 0}};
  EXPECT_EQ(items_peak_bytes(chosen, 1, 0), 30 + 70);
  EXPECT_EQ(items_peak_bytes(chosen, 1, 90), 35 + 90);
  EXPECT_EQ(items_peak_bytes(chosen, 3, 0), 2 * 35 + 30 + 70);
  EXPECT_EQ(items_peak_bytes(chosen, 3, 0, true), 3 * 35 + 70);
}

TEST(RecomputeSearch, EqualsBruteForceWithItemsOfSeveralLayers) {
  std::mt19937 random(11);
  int fits = 0, fits_not = 0;
  for (int trial = 0; trial < 400; ++trial) {
    RecomputeItems items = random_items(random, 1 + trial % 5, 4, 1 + trial, 1 + trial % 4);
    items.apart = trial % 3 == 0;
    if (trial % 2 == 0) {
      for (std::size_t l = 0; l + 2 <= items.at.size(); ++l) {
        const auto saved = static_cast<std::int64_t>(random()) % (1 + trial / 4);
        items.at[l].push_back({2, saved, saved + static_cast<std::int64_t>(random()) % (2 + 2 * trial),
                               trial * 1500LL + static_cast<std::int64_t>(random()) % 100000, -1});
      }
    }
    const std::int64_t least = least_budget_bytes(items);
    EXPECT_GE(brute_force(items, least), 0);
    EXPECT_LT(brute_force(items, least - 1), 0);
    for (const int percent : {0, 20, 50, 80, 100}) {
      const std::int64_t budget = least + (everything(items) - least) * percent / 100;
      const auto found = cheapest_items(items, budget, {});
      const std::int64_t best = brute_force(items, budget);
      ASSERT_EQ(found.has_value(), best >= 0);
      (found ? fits : fits_not) += 1;
      if (!found) continue;
      EXPECT_EQ(found->ps, best);
      EXPECT_EQ(found->bound_ps, best);
      EXPECT_LE(items_peak_bytes(found->items, items.in_flight, items.head_bytes, items.apart), budget);
    }
    EXPECT_FALSE(cheapest_items(items, least - 1, {}));
  }
  EXPECT_GT(fits, 1900);
}

// The linear relaxation of Σ saved <= cap: written as the best of all Lagrange multipliers that matter.
double linear_bound(const RecomputeItems& items, std::int64_t cap) {
  double best = 0;
  std::vector<double> slopes;
  for (const auto& at : items.at) {
    for (const auto& a : at) {
      for (const auto& b : at) {
        if (a.saved_bytes > b.saved_bytes && b.ps > a.ps) {
          slopes.push_back(static_cast<double>(b.ps - a.ps) / static_cast<double>(a.saved_bytes - b.saved_bytes));
        }
      }
    }
  }
  for (const double slope : slopes) {
    double value = -slope * static_cast<double>(cap);
    for (const auto& at : items.at) {
      double least = 1e300;
      for (const auto& a : at) {
        least = std::min(least, static_cast<double>(a.ps) + slope * static_cast<double>(a.saved_bytes));
      }
      value += least;
    }
    best = std::max(best, value);
  }
  return best;
}

TEST(RecomputeSearch, LargeAndAllDifferent) {
  std::mt19937 random(13);
  for (const int in_flight : {1, 4}) {
    for (const int percent : {50}) {
      SCOPED_TRACE(testing::Message() << in_flight << " in flight, " << percent << " %");
      const RecomputeItems items = random_items(random, 80, 8, std::int64_t{1} << 30, in_flight);
      const std::int64_t budget = std::max(least_budget_bytes(items), everything(items) * percent / 100);
      const auto found = cheapest_items(items, budget, {.max_labels = 4096});
      ASSERT_TRUE(found);
      EXPECT_LE(items_peak_bytes(found->items, in_flight, items.head_bytes), budget);
      EXPECT_LE(found->bound_ps, found->ps);
      EXPECT_LE(static_cast<double>(found->ps), 1.01 * static_cast<double>(found->bound_ps));
      const double linear = linear_bound(items, (budget - items.head_bytes) / in_flight);
      EXPECT_LE(linear, static_cast<double>(found->ps) * (1 + 1e-9));
      EXPECT_GT(linear, 0);
    }
  }
}

// Few labels force the bins: plan and bound stay on their sides of the optimum.
TEST(RecomputeSearch, BinsBracketTheOptimum) {
  std::mt19937 random(17);
  int gaps = 0;
  for (int trial = 0; trial < 60; ++trial) {
    const RecomputeItems items = random_items(random, 5, 5, 1000, 1 + trial % 3);
    const std::int64_t least = least_budget_bytes(items);
    const std::int64_t budget = least + (everything(items) - least) * (10 + trial) / 100;
    const auto found = cheapest_items(items, budget, {.max_labels = 6});
    const std::int64_t best = brute_force(items, budget);
    ASSERT_TRUE(found);
    EXPECT_GE(found->ps, best);
    EXPECT_LE(found->bound_ps, best);
    EXPECT_LE(items_peak_bytes(found->items, items.in_flight, items.head_bytes), budget);
    gaps += found->bound_ps < found->ps ? 1 : 0;
  }
  EXPECT_GT(gaps, 5);
}

}  // namespace
}  // namespace plimsoll
