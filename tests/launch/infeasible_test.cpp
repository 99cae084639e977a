// What is said of a run that does not fit is true: no list of memory.recompute needs less than the least that was
// found, or than the bound; and every change leads to the bytes and the verdict that it says.

#include <gtest/gtest.h>
#include <wordexp.h>

#include <sstream>

#include "launch/nearest_changes.hpp"
#include "launch/recompute_report.hpp"
#include "launch/roles.hpp"
#include "launch/run_costs.hpp"
#include "launch/run_setup.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;
using Settings = std::vector<std::string>;

// A buffer at the end of a plan need not be rounded up, so that plans with the same live bytes differ by less.
constexpr std::int64_t kRounding = kArenaAlignment - 1;

Config config_with(Settings settings) {
  Settings all{"run.threads=1", "train.global_batch=4"};
  all.insert(all.end(), settings.begin(), settings.end());
  return parse_config("data: {train: d, sequence: 32}\nmodel: {layers: 2, hidden: 32, heads: 4, vocabulary: 64}\n",
                      "run.yaml", all);
}

// Any budget is too small.
ProgramOptions least_of(const Config& config) { return choose_programs(config, {}, Purpose::Train, 1000, 0); }

struct Example {
  Settings settings;
  std::string list;  // that needs less than any answer of the recompute planner
};
const Example kExamples[] = {
    {{"model={family: gpt2, layers: 1, hidden: 512, heads: 4, vocabulary: 8192}", "data.sequence=256",
      "train.micro_batch=4"},
     "[{keep: [ln_2.y]}]"},
    {{"model={family: gpt2, layers: 1, hidden: 32, heads: 4, vocabulary: 64}", "data.sequence=1024",
      "train.micro_batch=2", "memory.logits=16384"},
     "[{keep: [attention.output.y, ln_2.sum, mlp.up.pre]}]"},
    {{"model={family: llama, layers: 3, hidden: 32, heads: 4, vocabulary: 512}", "data.sequence=512",
      "train.micro_batch=2"},
     "[{keep: [post_attention_layernorm.sum]}, {keep: [input_layernorm.rstd, post_attention_layernorm.sum, "
     "mlp.down.y]}, "
     "{keep: [input_layernorm.sum, mlp.gate_up.y]}]"},
};

TEST(Infeasible, NeedsNoMoreThanListsThatThePlannerCannotOffer) {
  for (const Example& example : kExamples) {
    const Config config = config_with(example.settings);
    Settings settings = example.settings;
    settings.push_back("memory.recompute=" + example.list);
    const std::int64_t listed = planned_bytes(choose_programs(config_with(settings), {}, Purpose::Train, 0, 0));
    ProgramOptions o = least_of(config);
    const std::int64_t needed = planned_bytes(o);
    EXPECT_LE(needed, listed + kRounding) << recompute_line(o.recompute);
    // And budgets from there on have a plan.
    for (const std::int64_t budget : {needed, (needed + listed) / 2, listed}) {
      std::optional<RecomputeChoice> choice;
      o = choose_programs(config, {}, Purpose::Train, std::max(budget, needed), 0, kNoHostLimit, nullptr, nullptr,
                          &choice);
      EXPECT_LE(planned_bytes(o), std::max(budget, needed));
      ASSERT_TRUE(choice);
      EXPECT_TRUE(choice->fits);
      EXPECT_GT(choice->step_seconds, 0);
    }
    const ProgramOptions less = choose_programs(config, {}, Purpose::Train, needed - 1, 0);
    EXPECT_EQ(planned_bytes(less), needed) << "does not follow from the budget";
  }
}

// The smallest plan trains like one that recomputes nothing, in the bytes that it says.
TEST(Infeasible, TheLeastPlanRunsAsPlanned) {
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.sequence = 64;
  const auto run = [&] {
    Engine engine(build_programs(o), {1, false, {}, nullptr});
    engine.initialise(1);
    std::vector<double> all;
    for (std::int64_t step = 0; step < 2; ++step)
      all.push_back(tiny_step(engine, o, step, 0, o.micro_batch, o.micro_batch).loss());
    EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes);
    const std::vector<double> parameters = region_values(engine, "parameters");
    all.insert(all.end(), parameters.begin(), parameters.end());
    return all;
  };
  const std::vector<double> none = run();
  const DescribedCosts costs{ClusterDescription{}};
  o.row_splits = false;  // they change bits
  o.recompute = choose_recompute(o, costs, 1).layers;
  ASSERT_FALSE(o.recompute.empty());
  EXPECT_TRUE(run() == none);
}

void expect_no_list_below(const ProgramOptions& o, const std::vector<std::vector<LayerRecompute>>& lists) {
  const Programs least = build_programs(o);
  const std::int64_t bound = least_arena_bytes(least, o), needed = least.plan.total_bytes;
  EXPECT_LE(bound, needed);
  const Graph keeping = keeping_graph(o).graph;
  std::int64_t smallest = needed;
  for (const std::vector<LayerRecompute>& list : lists) {
    ProgramOptions with = o;
    with.recompute = list;
    if (keep_fault(keeping, list)) continue;  // the first layer makes other values
    // What is larger than the smallest so far is not planned to the end.
    const std::int64_t bytes = plan_of(with, smallest, &keeping).total_bytes;
    if (bytes >= smallest) continue;
    smallest = bytes;
    EXPECT_GE(bytes, bound) << recompute_line(list);
    EXPECT_GE(bytes + kRounding, needed) << recompute_line(list) << " and not " << recompute_line(o.recompute);
  }
}

// By brute force: of one layer all sets of values.
TEST(Infeasible, NoKeepSetOfALayerNeedsLess) {
  for (const char* family : {"gpt2", "llama"}) {
    for (const char* sequence : {"16", "128"}) {
      SCOPED_TRACE(fmt::format("{} {}", family, sequence));
      const Config config = config_with({fmt::format("model.family={}", family), "model.layers=1",
                                         fmt::format("data.sequence={}", sequence), "train.micro_batch=2"});
      const ProgramOptions o = least_of(config);
      const std::vector<RecomputableValue> values = recomputable_values(keeping_graph(o).graph, 0);
      ASSERT_LT(values.size(), 16U);
      std::vector<std::vector<LayerRecompute>> lists;
      for (std::uint64_t set = 0; set < std::uint64_t{1} << values.size(); ++set) {
        LayerRecompute layer{RecomputeMode::Auto, {}};
        for (std::size_t v = 0; v < values.size(); ++v) {
          if ((set >> v & 1) != 0) layer.keep.push_back(values[v].name);
        }
        lists.push_back({layer});
      }
      expect_no_list_below(o, lists);
    }
  }
}

// Of up to three layers all combinations of modes, with those that a plan has.
TEST(Infeasible, NoListOfModesNeedsLess) {
  for (const char* family : {"gpt2", "llama"}) {
    for (const int layers : {1, 2, 3}) {
      for (const char* size : {"[32, 16]", "[32, 256]", "[64, 64]"}) {
        SCOPED_TRACE(fmt::format("{} {} {}", family, layers, size));
        const std::string text(size);
        const std::string hidden = text.substr(1, 2), sequence = text.substr(5, text.size() - 6);
        Config config = config_with({fmt::format("model.family={}", family), fmt::format("model.layers={}", layers),
                                     "model.hidden=" + hidden, "data.sequence=" + sequence});
        config.memory.row_splits = false;  // a layer in blocks does not go beside every mode
        const ProgramOptions o = least_of(config);
        using enum RecomputeMode;
        std::vector<LayerRecompute> choices{{None, {}}, {Full, {}}, {Selective, {}}, {Auto, {}}};
        choices.insert(choices.end(), o.recompute.begin(), o.recompute.end());
        std::vector<std::vector<LayerRecompute>> lists{{}};
        for (int l = 0; l < layers; ++l) {
          std::vector<std::vector<LayerRecompute>> longer;
          for (const auto& list : lists) {
            for (const LayerRecompute& choice : choices) {
              longer.push_back(list);
              longer.back().push_back(choice);
            }
          }
          lists = std::move(longer);
        }
        expect_no_list_below(o, lists);
      }
    }
  }
}

// Lists of random values, kept or offloaded, on meshes: none is below the bound.
TEST(Infeasible, NoRandomListNeedsLessThanTheBound) {
  const RandomStream random(5, "lists");
  std::uint64_t draws = 0;
  const auto to = [&](std::int64_t n) {
    return std::min(n - 1, static_cast<std::int64_t>(random.uniform(draws++) * static_cast<double>(n)));
  };
  const auto of = [&](std::initializer_list<const char*> all) { return all.begin()[to(std::ssize(all))]; };
  double nearest = 0;
  for (int c = 0; c < 30; ++c) {
    const std::string parallel =
        of({"{}", "{data: 2, zero: 1}", "{data: 2, zero: 2}", "{data: 2, zero: 3}", "{tensor: 2}",
            "{tensor: 2, sequence: false}", "{pipeline: 2}", "{pipeline: 2, schedule: zb-h1}",
            "{pipeline: 2, schedule: gpipe}", "{pipeline: 2, schedule: interleaved}",
            "{data: 2, pipeline: 2, tensor: 2, zero: 2}"});
    Config config = config_with({fmt::format("model.family={}", of({"gpt2", "llama"})), "model.layers=4",
                                 fmt::format("model.hidden={}", of({"16", "32", "64"})), "model.positions=256",
                                 fmt::format("model.vocabulary={}", of({"64", "1024"})), "train.global_batch=16",
                                 fmt::format("train.micro_batch={}", of({"1", "2"})), "parallel=" + parallel,
                                 fmt::format("data.sequence={}", of({"16", "64", "256"})), "data.validation=0.1",
                                 fmt::format("memory.logits={}", of({"auto", "4096"}))});
    SCOPED_TRACE(dump_config(config));
    const ParallelConfig& p = config.parallel;
    const int ranks = static_cast<int>(p.data.value_or(1) * p.pipeline * p.tensor);
    check_for_ranks(config, ranks);
    ProgramOptions o = choose_programs(config, {0, ranks, 0, ranks}, Purpose::Train, 1000, 0);
    for (int stage = 0; stage < o.mesh.pipeline; ++stage) {
      o = at_stage(o, stage);
      const LayerValues values = recomputable_values(keeping_graph(o).graph);
      const Programs least = build_programs(o);
      const std::int64_t bound = least_arena_bytes(least, o);
      EXPECT_GT(bound, least.plan.persistent_bytes);
      EXPECT_LE(bound, least.plan.total_bytes);
      nearest = std::max(nearest, static_cast<double>(bound) / static_cast<double>(least.plan.total_bytes));
      for (int i = 0; i < 20; ++i) {
        ProgramOptions with = o;
        with.recompute.assign(static_cast<std::size_t>(o.model.layers), {});
        for (const auto& [layer, of_layer] : values) {
          LayerRecompute& list = with.recompute[static_cast<std::size_t>(layer)];
          list.mode = std::array{RecomputeMode::None,    RecomputeMode::Full, RecomputeMode::Selective,
                                 RecomputeMode::Offload, RecomputeMode::Auto, RecomputeMode::Auto,
                                 RecomputeMode::Auto}[static_cast<std::size_t>(to(7))];
          if (list.mode != RecomputeMode::Auto) continue;
          const std::int64_t few = to(5), sent = to(3);
          for (const RecomputableValue& v : of_layer) {
            if (to(5) < few) (to(6) < sent ? list.offload : list.keep).push_back(v.name);
          }
        }
        EXPECT_GE(plan_of(with).total_bytes, bound) << recompute_line(with.recompute);
      }
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(nearest, 0.98) << "a bound of nothing is true, too";
}

// What stands before the bytes of a line is what `plimsoll plan` gets when somebody pastes it.
void expect_words_of_a_shell(const Infeasible& no) {
  std::vector<std::string> lines;
  std::istringstream text(no.text.substr(no.text.find("\nnearest changes") + 1));
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("  --")) lines.push_back(line);
  }
  ASSERT_EQ(lines.size(), no.changes.size()) << no.text;
  for (std::size_t c = 0; c < lines.size(); ++c) {
    wordexp_t words;
    ASSERT_EQ(wordexp(lines[c].substr(0, lines[c].rfind(": ")).c_str(), &words, WRDE_NOCMD | WRDE_UNDEF), 0)
        << lines[c];
    std::vector<std::string> typed(words.we_wordv, words.we_wordv + words.we_wordc), meant;
    wordfree(&words);
    if (typed.front() == "--ranks") {
      EXPECT_EQ(typed.at(1), std::to_string(no.changes[c].ranks));
      typed.erase(typed.begin(), typed.begin() + 2);
    }
    for (const std::string& setting : no.changes[c].settings) meant.insert(meant.end(), {"--set", setting});
    EXPECT_EQ(typed, meant) << lines[c];
  }
}

struct Refused {
  Settings settings;
  int ranks = 1;
  double share = 0.9;  // of what the run needs with everything kept
};

void expect_true_changes(const Refused& refused, Infeasible* found = nullptr) {
  SCOPED_TRACE(fmt::format("{}", fmt::join(refused.settings, " ")));
  const std::int64_t outside = 4096;
  Config config = config_with(refused.settings);
  check_for_ranks(config, refused.ranks);
  const Place place{0, refused.ranks, 0, refused.ranks};
  const std::int64_t host = config.memory.host_budget.value_or(kNoHostLimit);
  std::int64_t budget = config.memory.budget.value_or(0);
  if (budget == 0) {
    const auto no = find_infeasible(config, place, Purpose::Train, 5000, outside, host);
    ASSERT_TRUE(no);
    budget = static_cast<std::int64_t>(static_cast<double>(no->needed_bytes - outside) * refused.share) + outside;
  }
  const auto no = find_infeasible(config, place, Purpose::Train, budget, outside, host);
  ASSERT_TRUE(no);
  EXPECT_FALSE(no->changes.empty());
  EXPECT_TRUE(no->changes.back().fits) << "the budget that is needed";
  bool some_fit = true;
  std::int64_t unfit = 0;
  for (std::size_t c = 0; c + 1 < no->changes.size(); ++c) {
    EXPECT_TRUE(some_fit || !no->changes[c].fits) << "those that fit come first";
    some_fit = no->changes[c].fits;
    unfit += some_fit ? 0 : 1;
  }
  EXPECT_LE(unfit, 3) << no->text;
  expect_words_of_a_shell(*no);
  for (const NearestChange& change : no->changes) {
    SCOPED_TRACE(fmt::format("--set {} on {} ranks", fmt::join(change.settings, " --set "), change.ranks));
    EXPECT_NE(no->text.find("--set " + change.settings.back()), std::string::npos) << no->text;
    Settings settings = refused.settings;
    settings.insert(settings.end(), change.settings.begin(), change.settings.end());
    Config with = config_with(settings);
    check_for_ranks(with, change.ranks);
    const std::int64_t may_have = with.memory.budget.value_or(budget);
    const std::int64_t may_offload = with.memory.host_budget.value_or(host);
    const DescribedCosts costs(choose_cluster(with));
    const std::vector<RankRole> roles = rank_roles(choose_programs(
        with, {0, change.ranks, 0, change.ranks}, Purpose::Train, may_have, outside, may_offload, &costs));
    EXPECT_EQ(largest_role(roles).programs.plan.total_bytes + outside, change.needed_bytes);
    std::int64_t offloaded = 0;
    for (const RankRole& role : roles) offloaded = std::max(offloaded, role.programs.plan.host_bytes);
    EXPECT_EQ(offloaded, change.host_bytes);
    const bool fits = !check_budget(roles, may_have, outside) && !check_host_budget(roles, may_offload);
    EXPECT_EQ(fits, change.fits);
    if (!fits) continue;
    EXPECT_FALSE(
        find_infeasible(with, {0, change.ranks, 0, change.ranks}, Purpose::Train, may_have, outside, may_offload));
  }
  if (found != nullptr) *found = *no;
}

TEST(Infeasible, ChangesAreWhatTheirSettingsGive) {
  expect_true_changes({{"model.layers=3", "train.micro_batch=4"}});
  expect_true_changes({{"model.layers=3", "train.micro_batch=4", "memory.recompute=none", "memory.logits=65536"}});
  expect_true_changes({{"parallel={data: 2, zero: 1}", "train.global_batch=16"}, 2});
  expect_true_changes({{"parallel={data: 2, zero: 2}", "memory.recompute=full", "train.global_batch=16"}, 2, 0.7});
  expect_true_changes({{"parallel={pipeline: 2}", "model.layers=4", "train.global_batch=8"}, 2});
  expect_true_changes({{"parallel={pipeline: 2, stages: [3, 1]}", "model.layers=4", "memory.recompute=selective"}, 2});
  expect_true_changes({{"parallel=auto", "model.layers=4", "train.global_batch=8"}, 2});
}

// Where twice the ranks along one axis are not enough, more ranks are: the first that has a layout.
TEST(Infeasible, MoreRanksAreSearchedUntilALayoutFits) {
  const Settings wide{"model.hidden=96", "model.layers=4", "train.global_batch=16", "train.micro_batch=1"};
  for (const char* parallel : {"parallel={}", "parallel=auto"}) {
    Settings settings = wide;
    settings.emplace_back(parallel);
    Infeasible no;
    expect_true_changes({settings, 1, 0.6}, &no);
    const auto more = std::find_if(no.changes.begin(), no.changes.end(),
                                   [](const NearestChange& c) { return c.fits && c.ranks > 1; });
    ASSERT_NE(more, no.changes.end()) << no.text;
    EXPECT_EQ(more->ranks, 4) << no.text;
    EXPECT_EQ(more->settings.size(), 2U) << "a layout and its micro-batch";
    for (const NearestChange& other : no.changes) EXPECT_TRUE(&other == &*more || other.ranks == 1 || !other.fits);
  }
  // Where a doubling does fit, nothing is searched.
  Infeasible near;
  expect_true_changes({wide, 1, 0.8}, &near);
  EXPECT_EQ(near.text.find("--ranks 4"), std::string::npos) << near.text;
  EXPECT_EQ(near.text.find("parallel={"), std::string::npos) << near.text;
}

// A tensor axis brings sequence parallelism with it, where nobody said otherwise.
TEST(Infeasible, ChangesOfTheTensorAxisSplitSequencesWhereTheConfigurationWould) {
  expect_true_changes({{"train.micro_batch=4", "data.sequence=64", "memory.recompute=none"}});
  expect_true_changes({{"parallel={tensor: 2}", "data.sequence=64"}, 2});
  expect_true_changes({{"parallel={tensor: 2, sequence: false}", "data.sequence=64"}, 2});
  const auto needs = [](const Settings& settings) {
    const Config config = config_with(settings);
    const DescribedCosts costs(choose_cluster(config));
    const auto change =
        planned_change({config, false, {}, Purpose::Train, 5000, 0, kNoHostLimit, &costs}, {"parallel.tensor=2"}, 2);
    return change ? change->needed_bytes : 0;
  };
  const Settings wide{"train.micro_batch=4", "data.sequence=64", "memory.recompute=none", "model.vocabulary=16"};
  Settings whole = wide;
  whole.push_back("parallel.sequence=false");
  EXPECT_GT(needs(wide), 0);
  EXPECT_LT(needs(wide), needs(whole));
}

// What does not fit into the host's memory has changes with both sizes.
TEST(Infeasible, ChangesOfARunThatOffloadsTooMuch) {
  const Settings offload{"memory={budget: 64 MiB, host_budget: 16 KiB, recompute: offload}", "train.micro_batch=4"};
  expect_true_changes({offload});
  Settings tensor = offload;
  tensor.push_back("parallel={tensor: 2}");
  expect_true_changes({tensor, 2});
  const auto no = find_infeasible(config_with(offload), {}, Purpose::Train, 64 << 20, 0, 16 << 10);
  ASSERT_TRUE(no);
  EXPECT_TRUE(no->of_host);
  for (const char* part :
       {" of host memory (", "--set memory.host_budget=", "nearest changes, as plimsoll plan takes them:"})
    EXPECT_NE(no->text.find(part), std::string::npos) << part << " in\n" << no->text;
}

}  // namespace
}  // namespace plimsoll
