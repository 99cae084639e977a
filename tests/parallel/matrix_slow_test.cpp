// The whole matrix of layouts: every mesh of at most eight ranks with every ZeRO stage, and sequence parallelism on and
// off, on shapes that do not divide nicely.

#include "parallel/tensor.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kSteps = 20;

// GPT-2 with 4 heads, or Llama with 6 heads over 3 key/value heads; 509 ids.
ProgramOptions options_of(ModelFamily family, DType dtype) {
  ProgramOptions o = equivalence_options(family, dtype, 1);
  ModelConfig m = family_defaults(family);
  m.layers = 2;
  m.hidden = 24;
  m.heads = family == ModelFamily::Gpt2 ? 4 : 6;
  m.vocabulary = 509;
  m.positions = 80;
  if (family == ModelFamily::Llama) {
    m.kv_heads = 3;
    m.ffn = 48;
    m.tied = false;
  }
  o.model = resolve(m);
  return o;
}

std::vector<Layout> layouts(const ProgramOptions& o) {
  std::vector<Layout> all;
  for (int tensor = 1; tensor <= 8; ++tensor) {
    for (const bool sequence : {false, true}) {
      if (sequence && tensor == 1) continue;
      if (tensor > 1 && tensor_parallel_fault(o.model, o.sequence, {tensor, 0, sequence})) continue;
      const int copies = TensorParallel{tensor, 0, false}.kv_copies(o.model);
      for (int data = 1; data * tensor <= 8; ++data) {
        for (int zero = 0; zero <= (data > 1 ? 3 : 0); ++zero) {
          all.push_back({{.data = data, .tensor = tensor, .shards = data, .kv_copies = copies}, zero, sequence});
          if (data == 4 && zero > 0)
            all.push_back({{.data = 4, .tensor = tensor, .shards = 2, .kv_copies = copies}, zero, sequence});
        }
      }
    }
  }
  return all;
}

class Matrix : public testing::TestWithParam<std::tuple<ModelFamily, DType>> {};

TEST_P(Matrix, EveryLayoutTrainsAsOneRank) {
  const auto [family, dtype] = GetParam();
  const ProgramOptions o = options_of(family, dtype);
  std::map<std::int64_t, RunResult> one;  // by rows of a step
  int runs = 0;
  for (const Layout& layout : layouts(o)) {
    SCOPED_TRACE(name_of(layout));
    const std::int64_t rows = 2 * layout.mesh.data;
    if (!one.contains(rows)) one[rows] = train_on({}, o, rows, kSteps);
    expect_same_training(train_on(layout, o, rows, kSteps), one[rows]);
    ++runs;
  }
  EXPECT_GT(runs, 40);
}

INSTANTIATE_TEST_SUITE_P(Models, Matrix,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                                          testing::Values(DType::f32, DType::f64)),
                         [](const auto& p) {
                           return fmt::format("{}_{}", family_name(std::get<0>(p.param)),
                                              dtype_name(std::get<1>(p.param)));
                         });

}  // namespace
}  // namespace plimsoll
