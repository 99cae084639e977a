// mpirun -n N mpi_meshes gpt2|llama [data=D] [pipeline=P] [tensor=T] [zero=Z] [shards=S] [schedule=…] [sequence]
// [state=A,B,…]: a mesh of processes trains as one rank does, in fp32 and fp64, and with the same bits when it does so
// again. Every rank compares what it sees; one that differs makes the exit code 1.

#include <cstdio>
#include <sstream>
#include <string_view>

#include "launch/bootstrap.hpp"
#include "launch/process.hpp"
#include "parallel/tensor.hpp"
#include "runtime/core/text.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll::test {
namespace {

constexpr std::int64_t kSteps = 20;

struct Arguments {
  ModelFamily family = ModelFamily::Gpt2;
  Layout layout;
} arguments;
const MpiSession* session = nullptr;

ScheduleKind schedule_of(std::string_view name) {
  for (const ScheduleKind kind :
       {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::Interleaved}) {
    if (to_text(kind) == name) return kind;
  }
  fail(ErrorKind::Usage, "'{}' is no schedule", name);
}

Arguments read(int argc, char** argv) {
  Arguments a;
  Mesh& mesh = a.layout.mesh;
  mesh.shards = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto at = argument.find('=');
    const std::string_view key = argument.substr(0, at), value = at == argument.npos ? "" : argument.substr(at + 1);
    const int number = std::atoi(std::string(value).c_str());
    if (key == "gpt2" || key == "llama") {
      a.family = key == "gpt2" ? ModelFamily::Gpt2 : ModelFamily::Llama;
    } else if (key == "sequence") {
      a.layout.sequence = true;
    } else if (key == "state") {
      std::istringstream shares{std::string(value)};
      for (std::string share; std::getline(shares, share, ',');) a.layout.state_shares.push_back(std::stoll(share));
    } else if (key == "schedule") {
      a.layout.schedule = schedule_of(value);
    } else {
      int* const size = key == "data"       ? &mesh.data
                        : key == "pipeline" ? &mesh.pipeline
                        : key == "tensor"   ? &mesh.tensor
                        : key == "zero"     ? &a.layout.zero
                        : key == "shards"   ? &mesh.shards
                                            : nullptr;
      require(size != nullptr && number >= 0, ErrorKind::Usage, "'{}' is no argument of this test", argument);
      *size = number;
    }
  }
  if (mesh.shards == 0) mesh.shards = mesh.data;
  a.layout.chunks = a.layout.schedule == ScheduleKind::Interleaved ? 2 : 1;
  require(mesh.ranks() == session->size(), ErrorKind::Usage, "a mesh of {} ranks, but {} were started", mesh.ranks(),
          session->size());
  return a;
}

TEST(MpiMesh, TrainsAsOneRank) {
  Layout layout = arguments.layout;
  const std::int64_t stages = layout.mesh.pipeline;
  ProgramOptions o = uneven_options(arguments.family, DType::f32, std::max<std::int64_t>(2, 2 * stages));
  layout.mesh.kv_copies = TensorParallel{layout.mesh.tensor, 0, false}.kv_copies(o.model);
  const Groups groups =
      make_groups(layout.mesh, session->rank(),
                  [](const std::string& axis, const std::vector<int>& ranks) { return session->group(axis, ranks); });
  const std::int64_t rows = (stages <= 4 ? 2 * stages : stages) * layout.mesh.data;
  for (const DType dtype : {DType::f32, DType::f64}) {
    SCOPED_TRACE(fmt::format("{}, rank {}, {}", name_of(layout), session->rank(), dtype_name(dtype)));
    o.dtype = dtype;
    const RunResult run = train_rank(layout, o, session->rank(), groups, rows, kSteps, true);
    expect_same_training(run, train_on({}, o, rows, kSteps));
    if (dtype == DType::f32) expect_same_bits(train_rank(layout, o, session->rank(), groups, rows, kSteps, true), run);
  }
}

}  // namespace
}  // namespace plimsoll::test

int main(int argc, char** argv) {
  using namespace plimsoll;
  ensure_environment(argv);
  testing::InitGoogleTest(&argc, argv);
  GTEST_FLAG_SET(catch_exceptions, false);  // the other ranks would wait for one that goes on without them
  const MpiSession mpi;
  test::session = &mpi;
  try {
    test::arguments = test::read(argc, argv);
    const Group control = mpi.world("control");
    const int missed = RUN_ALL_TESTS();
    return control.max(missed) > 0 ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mpi_meshes, rank %d: %s\n", mpi.rank(), error.what());
    mpi.abort(1);
    return 1;
  }
}
