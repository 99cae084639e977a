#include "launch/device_transport.hpp"

#include <gtest/gtest.h>

#include "tests/comm/fake_nccl.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using test::FakeNccl;
using test::FakeNcclWorld;
using test::QueueDevice;

constexpr const char* kRun = "model: {preset: gpt2-124m}\ndata: {train: none, sequence: 8}\ndevice: cuda\n";

Config config_with(const std::string& transport) {
  return parse_config(kRun + fmt::format("comm: {{transport: {}}}\n", transport), "f.yaml");
}
std::shared_ptr<NcclApi> no_nccl() { fail(ErrorKind::Device, "libnccl.so.2 cannot be loaded"); }

// "nccl", "staged: why" or the error, on each of so many ranks. `has_nccl`: which have the library.
std::vector<std::string> chosen(const std::string& asked, int ranks, const std::optional<std::string>& shared,
                                const std::function<bool(int)>& has_nccl) {
  const Config config = config_with(asked);
  return test::on_ranks(ranks, [&](const Group& control) {
    const auto open = [&]() -> std::shared_ptr<NcclApi> {
      return has_nccl(control.rank()) ? std::make_shared<FakeNccl>() : no_nccl();
    };
    const DeviceTransportChoice choice = choose_device_transport(config, shared, control, open);
    EXPECT_EQ(choice.nccl != nullptr, choice.name == TransportName::Nccl);
    return std::string(to_text(choice.name)) + (choice.reason.empty() ? "" : ": " + choice.reason);
  });
}

TEST(DeviceTransport, IsNcclWhereThatWorksOnEveryRank) {
  using Texts = std::vector<std::string>;
  const auto all = [](int) { return true; };
  const auto first = [](int rank) { return rank == 0; };
  const std::optional<std::string> shared = "ranks 0 and 1 have the same GPU (b)";
  EXPECT_EQ(chosen("auto", 2, std::nullopt, all), (Texts{"nccl", "nccl"}));
  EXPECT_EQ(chosen("auto", 2, std::nullopt, first),
            (Texts{"staged: a rank has no NCCL", "staged: libnccl.so.2 cannot be loaded"}));
  EXPECT_EQ(chosen("auto", 2, shared, all), (Texts{"staged: " + *shared, "staged: " + *shared}));
  EXPECT_EQ(chosen("staged", 2, std::nullopt, all), (Texts{"staged", "staged"}));
  EXPECT_EQ(chosen("auto", 1, std::nullopt, first), (Texts{"self"}));
  const std::string refused =
      "f.yaml:4:19: comm.transport: is nccl, but ranks 0 and 1 have the same GPU (b), which NCCL does not allow: "
      "staged does";
  EXPECT_EQ(chosen("nccl", 2, shared, all), (Texts{refused, refused}));
  EXPECT_EQ(chosen("nccl", 2, std::nullopt, [](int) { return false; }),
            (Texts{"libnccl.so.2 cannot be loaded", "libnccl.so.2 cannot be loaded"}));
}

// Of a rank with a GPU of its own.
DeviceTransports transports_over(std::shared_ptr<NcclApi> api, Device& device, int rank) {
  DeviceTransportChoice choice;
  choice.name = TransportName::Nccl;
  choice.nccl = std::move(api);
  return {std::move(choice), device, fmt::format("GPU {}", rank), false};
}

// A communicator for an axis; in a pipeline, one more for each neighbour that messages go to or come from, which take
// few blocks of the device. The arena is registered in all of them, and they are closed.
TEST(DeviceTransport, MakesCommunicatorsForAxes) {
  const auto world = std::make_shared<FakeNcclWorld>();
  const auto faults = test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& below) -> std::string {
    const auto api = std::make_shared<FakeNccl>(world);
    QueueDevice device;
    DeviceTransports transports = transports_over(api, device, below->rank());
    EXPECT_EQ(transports.text(), "NCCL fake");
    const auto data = transports.over("data", below, nullptr);
    const auto back = transports.over("pipeline_back", below, nullptr);
    Arena arena(device, 4096);
    EXPECT_TRUE(transports.register_memory(arena, Group("control", below)));
    transports.close();
    std::vector<std::string> made, closed;
    int registered = 0, deregistered = 0;
    for (const std::string& call : api->log) {
      if (call.starts_with("ncclCommInitRankConfig")) made.push_back(call.substr(23));
      if (call.starts_with("ncclCommDestroy")) closed.push_back(call);
      registered += call.starts_with("ncclCommRegister") ? 1 : 0;
      deregistered += call.starts_with("ncclCommDeregister") ? 1 : 0;
    }
    EXPECT_EQ(registered, 4);
    EXPECT_EQ(deregistered, 4);
    const int me = below->rank();
    EXPECT_EQ(made,
              (std::vector<std::string>{fmt::format("axis data {}/2", me), fmt::format("axis pipeline_back {}/2", me),
                                        fmt::format("axis pipeline_back, messages from 1 to 0 {}/2, 4 blocks", 1 - me),
                                        fmt::format("axis pipeline_back, messages from 0 to 1 {}/2, 4 blocks", me)}));
    EXPECT_EQ(closed.size(), made.size());
    return "";
  });
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
}

// NCCL wants memory registered on all ranks of a communicator or on none.
TEST(DeviceTransport, MemoryThatOneRankCannotRegisterIsRegisteredOnNone) {
  const auto world = std::make_shared<FakeNcclWorld>();
  const auto faults = test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& below) -> std::string {
    const auto api = std::make_shared<FakeNccl>(world);
    if (below->rank() == 1) {
      api->answer = [](const std::string& call) { return call.starts_with("ncclCommRegister axis shard") ? 1 : 0; };
    }
    QueueDevice device;
    DeviceTransports transports = transports_over(api, device, below->rank());
    const auto data = transports.over("data", below, nullptr), shard = transports.over("shard", below, nullptr);
    Arena arena(device, 4096);
    EXPECT_FALSE(transports.register_memory(arena, Group("control", below)));
    std::vector<std::string> deregistered;
    for (const std::string& call : api->log) {
      if (call.starts_with("ncclCommDeregister")) deregistered.push_back(call.substr(19));
    }
    const std::vector<std::string> both{"axis data", "axis shard"}, first{"axis data"};
    EXPECT_EQ(deregistered, below->rank() == 0 ? both : first);
    transports.close();
    return "";
  });
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
}

}  // namespace
}  // namespace plimsoll
