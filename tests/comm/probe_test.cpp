#include "comm/probe.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "comm/staged_transport.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/far_device.hpp"
#include "tests/support/local_ranks.hpp"
#include "tests/support/slow_transport.hpp"

namespace plimsoll {
namespace {

constexpr LinkOperation kOperations[]{LinkOperation::SendReceive, LinkOperation::ReduceScatter,
                                      LinkOperation::AllGather, LinkOperation::AllReduce};

TEST(Probe, EveryRankFindsTheSameTable) {
  for (const int ranks : {2, 3}) {
    for (const LinkOperation operation : kOperations) {
      std::mutex mutex;
      std::vector<std::vector<LinkSample>> tables;
      const auto faults = test::on_ranks(ranks, [&](const Group& group) -> std::string {
        const ProbeOptions options{.largest_bytes = 1 << 16, .repetitions = 3};
        const LinkTable table = probe(group, operation, options);
        const std::lock_guard lock(mutex);
        tables.push_back(table.samples());
        return "";
      });
      for (const std::string& fault : faults) EXPECT_EQ(fault, "") << to_text(operation);
      ASSERT_EQ(std::ssize(tables), ranks);
      ASSERT_EQ(tables[0].size(), 7U) << "1 KiB to 64 KiB";
      for (const auto& table : tables) {
        for (std::size_t i = 0; i < table.size(); ++i) {
          EXPECT_EQ(table[i].bytes, tables[0][i].bytes);
          EXPECT_EQ(table[i].seconds, tables[0][i].seconds);
          EXPECT_EQ(table[i].bytes % (4 * ranks), 0) << "parts of whole elements";
          EXPECT_LE(table[i].bytes, std::int64_t{1024} << i);
        }
      }
    }
  }
}

// What was sent is what the sizes and repetitions ask for: the probe measures the operation that it names.
TEST(Probe, MovesTheBytesOfTheOperation) {
  const ProbeOptions options{.least_bytes = 4096, .largest_bytes = 4096, .repetitions = 4, .seconds_per_size = 1e9};
  const auto sent = [&](LinkOperation operation) {
    std::mutex mutex;
    std::int64_t all = 0;
    const auto faults = test::on_ranks(4, [&](const Group& group) -> std::string {
      probe(group, operation, options);
      const std::lock_guard lock(mutex);
      all += group.bytes_sent();
      return "";
    });
    for (const std::string& fault : faults) EXPECT_EQ(fault, "");
    return all;
  };
  // Barriers and the maximum of the times are the same for all operations: they fall out of the differences.
  const std::int64_t repetitions = 5, bytes = 4096, collectives = repetitions * kCollectivesInARow;
  const std::int64_t messages = sent(LinkOperation::SendReceive);
  EXPECT_EQ(sent(LinkOperation::AllGather) - messages, collectives * 3 * bytes - repetitions * 2 * bytes);
  EXPECT_EQ(sent(LinkOperation::ReduceScatter) - messages, collectives * 3 * bytes - repetitions * 2 * bytes);
  EXPECT_EQ(sent(LinkOperation::AllReduce) - messages, collectives * 2 * 3 * bytes - repetitions * 2 * bytes);
}

// The same over memory that only copies reach, in tasks of a communication stream.
TEST(Probe, MeasuresMessagesOfDevices) {
  for (const LinkOperation operation : kOperations) {
    std::mutex mutex;
    std::vector<std::vector<LinkSample>> tables;
    const auto faults = test::on_ranks_over(3, [&](const std::shared_ptr<Transport>& below) -> std::string {
      test::FarDevice device;
      const Group group("data", make_staged_transport(below, device, {.piece_bytes = 1 << 12}));
      const auto stream = device.make_stream(StreamKind::Communication);
      const std::int64_t before = group.bytes_sent();
      const ProbeOptions options{.largest_bytes = 1 << 14, .repetitions = 2, .on = {&device, stream.get()}};
      const LinkTable table = probe(group, operation, options);
      const std::lock_guard lock(mutex);
      tables.push_back(table.samples());
      // A pair sends; of a collective everybody.
      const bool sends = operation != LinkOperation::SendReceive || group.rank() == 0;
      return !sends || group.bytes_sent() - before > (1 << 14) ? "" : "nothing was sent";
    });
    for (const std::string& fault : faults) EXPECT_EQ(fault, "") << to_text(operation);
    ASSERT_EQ(std::ssize(tables), 3);
    ASSERT_EQ(tables[0].size(), 5U) << "1 KiB to 16 KiB";
    for (const auto& table : tables) {
      for (std::size_t i = 0; i < table.size(); ++i) EXPECT_EQ(table[i].seconds, tables[0][i].seconds);
    }
  }
}

// On a busy machine it may be one of the small ones.
TEST(Probe, EndsAtTheFirstSizeThatTakesTooLong) {
  const auto faults = test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& t) -> std::string {
    const Group group("data", std::make_shared<test::SlowTransport>(t, 1 << 14));
    const ProbeOptions options{.largest_bytes = 1 << 20, .repetitions = 1, .longest_s = 0.05};
    const std::int64_t last = probe(group, LinkOperation::SendReceive, options).samples().back().bytes;
    return last <= 1 << 14 ? "" : fmt::format("the last size is {}", last);
  });
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
}

TEST(Probe, RefusesOneRank) {
  EXPECT_THROW(probe(Group("data", make_self_transport()), LinkOperation::AllReduce), Error);
}

// Work before an operation is not part of its time; waiting for a rank whose work takes longer than on the slowest
// otherwise is.
TEST(Probe, WorkBeforeAnOperationDoesNotCount) {
  std::mutex mutex;
  std::vector<double> seconds;
  std::atomic<int> worked = 0;
  const auto faults = test::on_ranks(2, [&](const Group& group) -> std::string {
    ProbeOptions options{.least_bytes = 1024, .largest_bytes = 1024, .repetitions = 5};
    options.work = [&] {
      ++worked;
      std::this_thread::sleep_for(std::chrono::milliseconds(group.rank() == 0 ? 20 : 10));
    };
    const LinkTable table = probe(group, LinkOperation::AllReduce, options);
    const std::lock_guard lock(mutex);
    seconds.push_back(table.samples().front().seconds);
    return "";
  });
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
  EXPECT_EQ(worked, 2 * 6);
  ASSERT_EQ(seconds.size(), 2U);
  EXPECT_EQ(seconds[0], seconds[1]);
  EXPECT_LT(seconds[0], 0.020) << "neither the 20 ms of the slow rank nor the 10 ms that the other waits for it";
}

// Messages that stop the work beside them from their start to their end.
class HoldingTransport : public Transport {
 public:
  HoldingTransport(std::shared_ptr<Transport> inner, std::atomic<bool>& held) : inner_(std::move(inner)), held_(held) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override {
    std::int64_t bytes = 0;
    for (const Message& m : sends) bytes += m.bytes;
    const bool large = bytes > 1024;  // no barrier
    if (large && holding_++ == 0) held_ = true;
    holds_[slot] = large;
    if (large) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    inner_->start(slot, sends, receives);
  }
  void finish(int slot) override {
    inner_->finish(slot);
    if (holds_[slot] && --holding_ == 0) held_ = false;
  }

 private:
  std::shared_ptr<Transport> inner_;
  std::atomic<bool>& held_;
  bool holds_[2] = {};
  int holding_ = 0;  // exchanges under way, of one thread at a time
};

TEST(Probe, TellsHowMuchOfTheWorkBesideItAnOperationTakes) {
  const auto slowdown = [](bool holds) {
    std::vector<double> found(2);
    const auto faults = test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& t) -> std::string {
      std::atomic<bool> stopped = false, other = false;
      // Only one rank is slowed; what is found is that of the slowest, on both.
      const bool slow = holds && t->rank() == 1;
      const Group group("data", std::make_shared<HoldingTransport>(t, slow ? stopped : other));
      found[static_cast<std::size_t>(t->rank())] = probe_slowdown(group, LinkOperation::AllReduce, 1 << 16, [&] {
        // It leaves its core to what it is slowed by, also where other processes want one.
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        while (stopped) std::this_thread::sleep_for(std::chrono::microseconds(50));
      });
      return "";
    });
    for (const std::string& fault : faults) EXPECT_EQ(fault, "");
    EXPECT_EQ(found[0], found[1]);
    return found[0];
  };
  EXPECT_GE(slowdown(false), 0);
  const double held = slowdown(true);
  EXPECT_GT(held, 0.2) << "work that can hardly go on";
  EXPECT_LT(held, 1);
}

}  // namespace
}  // namespace plimsoll
