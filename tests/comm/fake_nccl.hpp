#pragma once
// NCCL for tests: records what it is asked, can be told what to answer, and otherwise moves the tensors, which lie in
// host memory, at once. Ranks are threads of the test's process; a rank may call from several, each with groups of its
// own, as NCCL has it.

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/group.hpp"
#include "comm/nccl_api.hpp"
#include "runtime/device/cpu_stream.hpp"
#include "runtime/device/device.hpp"
#include "tests/support/forwarding_device.hpp"

namespace plimsoll::test {

// What the ranks' libraries share: who is in which communicator.
class FakeNcclWorld {
 public:
  NcclId next_id() {
    const std::lock_guard lock(mutex_);
    NcclId id{};
    id[0] = static_cast<char>(++ids_);
    return id;
  }
  std::shared_ptr<Transport> join(const NcclId& id, int ranks, int rank) {
    const std::lock_guard lock(mutex_);
    auto& all = groups_[id];
    if (all.empty()) all = make_local_transports(ranks);
    return all[static_cast<std::size_t>(rank)];
  }
  void abort() {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, all] : groups_) {
      for (const auto& t : all) abort_local(*t);
    }
  }

 private:
  std::mutex mutex_;
  int ids_ = 0;
  std::map<NcclId, std::vector<std::shared_ptr<Transport>>> groups_;
};

class FakeNccl final : public NcclApi {
 public:
  explicit FakeNccl(std::shared_ptr<FakeNcclWorld> world = std::make_shared<FakeNcclWorld>())
      : world_(std::move(world)) {}

  std::vector<std::string> log;                              // of all calls but those about errors
  std::function<int(const std::string& call)> answer;        // anything but success: the call does nothing else
  std::function<int()> state = [] { return kNcclSuccess; };  // what comm_get_async_error finds
  void* expected_stream = nullptr;                           // null: any

  std::string version() override { return "fake"; }
  std::string error_text(int result, NcclComm) override { return fmt::format("error {}", result); }
  int get_unique_id(NcclId& id) override {
    id = world_->next_id();
    return called("ncclGetUniqueId");
  }
  int comm_init_rank(NcclComm& comm, int ranks, const NcclId& id, int rank, const char* name,
                     int most_blocks) override {
    const auto transport = world_->join(id, ranks, rank);
    {
      const std::lock_guard lock(mutex_);
      comms_.push_back(std::make_unique<Group>(name, transport));
      comm = reinterpret_cast<NcclComm>(comms_.back().get());
      transports_[comm] = transport;
    }
    return called(fmt::format("ncclCommInitRankConfig {} {}/{}{}", name, rank, ranks,
                              most_blocks > 0 ? fmt::format(", {} blocks", most_blocks) : ""));
  }
  int comm_get_async_error(NcclComm, int& found) override {
    found = state();
    return kNcclSuccess;
  }
  int comm_register(NcclComm comm, void* memory, std::size_t bytes, void*& handle) override {
    handle = memory;
    return called(fmt::format("ncclCommRegister {} {}", name_of(comm), bytes));
  }
  int comm_deregister(NcclComm comm, void*) override {
    return called(fmt::format("ncclCommDeregister {}", name_of(comm)));
  }
  int comm_finalize(NcclComm comm) override { return called(fmt::format("ncclCommFinalize {}", name_of(comm))); }
  int comm_destroy(NcclComm comm) override { return called(fmt::format("ncclCommDestroy {}", name_of(comm))); }
  int comm_abort(NcclComm comm) override { return called(fmt::format("ncclCommAbort {}", name_of(comm))); }
  int group_start() override {
    mine().grouped = true;
    return called("ncclGroupStart");
  }
  int group_end() override {
    mine().grouped = false;
    const int result = called("ncclGroupEnd");
    if (result == kNcclSuccess) run_group();
    mine().queue.clear();
    return result;
  }
  int all_reduce(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, NcclComm comm,
                 void* stream) override {
    return queue("ncclAllReduce", count, comm, stream, [=, this] {
      const View to = view(out, count, type);
      if (in != out) std::memcpy(out, in, static_cast<std::size_t>(to.spec.bytes()));
      group(comm).all_reduce(to, reduce_op(op), scratch(comm));
    });
  }
  int reduce(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, int root, NcclComm comm,
             void* stream) override {
    return queue(fmt::format("ncclReduce to {}", root), count, comm, stream, [=, this] {
      const View from = view(const_cast<void*>(in), count, type);
      std::vector<std::byte> sum(from.as<std::byte>(), from.as<std::byte>() + from.spec.bytes());
      group(comm).all_reduce({sum.data(), from.spec}, reduce_op(op), scratch(comm));
      if (group(comm).rank() == root) std::memcpy(out, sum.data(), sum.size());
    });
  }
  int reduce_scatter(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, NcclComm comm,
                     void* stream) override {
    return queue("ncclReduceScatter", count, comm, stream, [=, this] {
      const auto ranks = static_cast<std::size_t>(group(comm).size());
      group(comm).reduce_scatter(view(const_cast<void*>(in), count * ranks, type), view(out, count, type),
                                 reduce_op(op), scratch(comm));
    });
  }
  int all_gather(const void* in, void* out, std::size_t count, NcclType type, NcclComm comm, void* stream) override {
    return queue("ncclAllGather", count, comm, stream, [=] {
      const auto ranks = static_cast<std::size_t>(group(comm).size());
      group(comm).all_gather(view(const_cast<void*>(in), count, type), view(out, count * ranks, type));
    });
  }
  int broadcast(const void* in, void* out, std::size_t count, NcclType type, int root, NcclComm comm,
                void* stream) override {
    return queue(fmt::format("ncclBroadcast from {}", root), count, comm, stream, [=] {
      const View to = view(out, count, type);
      if (group(comm).rank() == root && in != out) std::memcpy(out, in, static_cast<std::size_t>(to.spec.bytes()));
      group(comm).broadcast(to, root);
    });
  }
  int send(const void* in, std::size_t count, NcclType type, int peer, NcclComm comm, void* stream) override {
    const View v = view(const_cast<void*>(in), count, type);
    return queue(fmt::format("ncclSend to {}", peer), count, comm, stream, {}, {{peer, v.data, v.spec.bytes()}});
  }
  int recv(void* out, std::size_t count, NcclType type, int peer, NcclComm comm, void* stream) override {
    const View v = view(out, count, type);
    return queue(fmt::format("ncclRecv from {}", peer), count, comm, stream, {}, {}, {{peer, v.data, v.spec.bytes()}});
  }

 private:
  struct Queued {
    std::function<void()> collective;
    std::vector<Message> sends, receives;
  };
  struct OfThread {
    std::vector<Queued> queue;
    std::vector<std::byte> scratch;
    bool grouped = false;
    NcclComm comm = nullptr;
  };
  OfThread& mine() {
    const std::lock_guard lock(mutex_);
    return of_threads_[std::this_thread::get_id()];
  }

  int called(std::string call) {
    const int result = answer ? answer(call) : kNcclSuccess;
    const std::lock_guard lock(mutex_);
    log.push_back(std::move(call));
    return result;
  }
  int queue(const std::string& call, std::size_t count, NcclComm comm, void* stream, std::function<void()> collective,
            std::vector<Message> sends = {}, std::vector<Message> receives = {}) {
    const int result = called(fmt::format("{}, {} elements, {}", call, count, name_of(comm)));
    if (result != kNcclSuccess && result != kNcclInProgress) return result;
    if (expected_stream != nullptr && stream != expected_stream) return kNcclInvalidArgument;
    OfThread& t = mine();
    t.queue.push_back({std::move(collective), std::move(sends), std::move(receives)});
    t.comm = comm;
    if (!t.grouped) {
      run_group();
      t.queue.clear();
    }
    return result;
  }
  // As NCCL promises: all messages of a group together.
  void run_group() {
    std::vector<Message> sends, receives;
    OfThread& t = mine();
    for (const Queued& q : t.queue) {
      if (q.collective) q.collective();
      sends.insert(sends.end(), q.sends.begin(), q.sends.end());
      receives.insert(receives.end(), q.receives.begin(), q.receives.end());
    }
    if (t.queue.empty()) return;
    // A message by itself goes one way, and another thread may go the other.
    const int slot = sends.empty() ? 1 : 0;
    transport_of(t.comm).start(slot, sends, receives);
    transport_of(t.comm).finish(slot);
  }

  static const Group& group(NcclComm comm) { return *reinterpret_cast<const Group*>(comm); }
  static std::string name_of(NcclComm comm) { return group(comm).axis(); }
  Transport& transport_of(NcclComm comm) {
    const std::lock_guard lock(mutex_);
    return *transports_.at(comm);
  }
  std::byte* scratch(NcclComm comm) {
    std::vector<std::byte>& bytes = mine().scratch;
    bytes.resize(static_cast<std::size_t>(reduce_scratch_bytes(group(comm).size())));
    return bytes.data();
  }
  static ReduceOp reduce_op(NcclOp op) { return op == NcclOp::Sum ? ReduceOp::Sum : ReduceOp::Max; }
  static View view(void* data, std::size_t count, NcclType type) {
    const std::map<NcclType, DType> types{{NcclType::u8, DType::u8},    {NcclType::i32, DType::i32},
                                          {NcclType::i64, DType::i64},  {NcclType::f16, DType::f16},
                                          {NcclType::f32, DType::f32},  {NcclType::f64, DType::f64},
                                          {NcclType::bf16, DType::bf16}};
    return {data, {{static_cast<std::int64_t>(count)}, types.at(type)}};
  }

  std::shared_ptr<FakeNcclWorld> world_;
  std::mutex mutex_;  // of what follows, and of the log
  std::vector<std::unique_ptr<Group>> comms_;
  std::map<NcclComm, std::shared_ptr<Transport>> transports_;
  std::map<std::thread::id, OfThread> of_threads_;
};

// The CPU device with streams that call their tasks at once, and have a handle, as CUDA's. An event is ready when
// `reached` has come to the place where it was recorded; at first all are.
class QueueDevice final : public ForwardingDevice {
 public:
  QueueDevice() : ForwardingDevice(make_cpu_device(1)) {}
  std::atomic<std::int64_t> reached = std::int64_t{1} << 40;

  std::string_view kind() const override { return "queue"; }
  std::string description() const override { return "streams with a handle"; }
  std::unique_ptr<Stream> make_stream(StreamKind) override { return std::make_unique<QueueStream>(*this); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<QueueEvent>(*this); }
  std::unique_ptr<Timer> make_timer() override {
    return Device::make_timer();  // by these streams. NOLINT(bugprone-parent-virtual-call)
  }

 private:
  struct QueueEvent final : Event {
    explicit QueueEvent(const QueueDevice& d) : device(d) {}
    bool ready() const override { return device.reached >= place; }
    void synchronize() const override {}
    const QueueDevice& device;
    std::int64_t place = 0;
  };
  struct QueueStream final : Stream {
    explicit QueueStream(QueueDevice& d) : device(d) {}
    void launch(Task task) override { task.run(task.argument); }
    void record(Event& event) override { dynamic_cast<QueueEvent&>(event).place = ++device.recorded_; }
    void wait(const Event&) override {}
    void synchronize() override {}
    void* native_handle() override { return this; }
    QueueDevice& device;
  };
  std::atomic<std::int64_t> recorded_ = 0;
};

}  // namespace plimsoll::test
