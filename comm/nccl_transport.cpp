#include "comm/nccl_transport.hpp"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include "comm/device_calls.hpp"
#include "comm/group.hpp"
#include "comm/nccl_communicator.hpp"

namespace plimsoll {
namespace {

NcclType nccl_type(DType t) {
  switch (t) {
    case DType::f32: return NcclType::f32;
    case DType::f64: return NcclType::f64;
    case DType::bf16: return NcclType::bf16;
    case DType::f16: return NcclType::f16;
    case DType::i32: return NcclType::i32;
    case DType::i64: return NcclType::i64;
    case DType::u8: return NcclType::u8;
    case DType::f8e4m3:
    case DType::f8e5m2: break;
  }
  fail(ErrorKind::Internal, "a dtype that NCCL does not have");
}
NcclOp nccl_op(ReduceOp op) { return op == ReduceOp::Sum ? NcclOp::Sum : NcclOp::Max; }
std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

// Of the device, that messages of a direction may take: what is received ahead waits on them while others compute.
constexpr int kBlocksOfADirection = 4;

class NcclTransportOfGroup final : public NcclTransport, public WholeCollectives {
 public:
  NcclTransportOfGroup(std::shared_ptr<NcclApi> api, std::shared_ptr<Transport> control, Device& device,
                       const NcclOptions& options, std::shared_ptr<WatchedGroup> watch)
      : api_(std::move(api)),
        control_(std::move(control)),
        options_(options),
        watch_(std::move(watch)),
        device_(device) {
    require_own_devices();
    whole_ = connect(fmt::format("axis {}", options_.axis), 0, rank(), size());
    for (const auto& [from, to] : options_.directions) {
      const bool mine = rank() == from || rank() == to;
      pairs_.push_back(connect(fmt::format("axis {}, messages from {} to {}", options_.axis, from, to), from,
                               mine ? (rank() == from ? 0 : 1) : -1, 2, kBlocksOfADirection));
    }
    started_ = true;
    if (watch_) watch_->watchdog->poll_with(*watch_, [this] { return poll(); });
  }
  ~NcclTransportOfGroup() override {
    if (watch_) watch_->watchdog->poll_with(*watch_, nullptr);
  }

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override {
    control_->start(slot, sends, receives);
  }
  void finish(int slot) override { control_->finish(slot); }
  std::int64_t bytes_sent() const override { return control_->bytes_sent() + bytes_sent_; }
  WholeCollectives* whole(const CallSite& at) override { return at.stream != nullptr ? this : nullptr; }
  bool returns_early() const override { return true; }

  bool register_memory(void* memory, std::int64_t bytes) override {
    const std::lock_guard lock(mutex_);
    bool registered = true;
    for_each_line([&](Line& line) { registered = line.comm.register_memory(memory, bytes) && registered; });
    return registered;
  }
  void deregister_memory() override {
    const std::lock_guard lock(mutex_);
    for_each_line([](Line& line) { line.comm.deregister_memory(); });
  }

  void close() override {
    const std::lock_guard lock(mutex_);
    for_each_line([](Line& line) { line.comm.close(); });
  }

  void abort() noexcept override {
    const std::lock_guard lock(mutex_);
    for_each_line([](Line& line) { line.comm.abort(); });
  }

  bool all_reduce(View x, ReduceOp op, const CallSite& at) override {
    const std::int64_t n = x.spec.elements();
    if (n == 0) return true;
    const ElementRange mine = range_of_rank(n, rank(), size());
    return issue(*whole_, "all_reduce", x, -1, at, n - mine.count + (size() - 1) * mine.count, [&](void* stream) {
      whole_->comm.settle(api_->all_reduce(x.data, x.data, size_of(n), nccl_type(x.spec.dtype), nccl_op(op),
                                           whole_->comm.get(), stream),
                          "ncclAllReduce");
    });
  }

  bool all_reduce(View x, ReduceOp op, std::span<const ElementRange> ranges, const CallSite& at) override {
    std::int64_t sent = 0;
    for (const ElementRange& range : ranges) {
      const std::int64_t mine = range_of_rank(range.count, rank(), size()).count;
      sent += range.count - mine + (size() - 1) * mine;
    }
    return issue(*whole_, "all_reduce", x, -1, at, sent, [&](void* stream) {
      whole_->comm.group([&](const auto& add) {
        for (const ElementRange& range : ranges) {
          void* place = element_at(x, range.first);
          if (range.count == 0) continue;
          add(api_->all_reduce(place, place, size_of(range.count), nccl_type(x.spec.dtype), nccl_op(op),
                               whole_->comm.get(), stream),
              "ncclAllReduce");
        }
      });
    });
  }

  bool reduce_scatter(View in, View out, ReduceOp op, const RankCuts& cuts, const CallSite& at) override {
    const std::int64_t n = in.spec.elements();
    if (n == 0) return true;
    return issue(*whole_, "reduce_scatter", in, -1, at, n - out.spec.elements(), [&](void* stream) {
      if (even(n, cuts)) return whole_->comm.settle(scatter_even(in, out.data, op, stream), "ncclReduceScatter");
      whole_->comm.group([&](const auto& add) { scatter_parts(in, out, op, cuts, stream, add); });
    });
  }

  bool reduce_scatter(View in, View out, ReduceOp op, std::span<const JoinedPart> parts, const CallSite& at) override {
    std::int64_t mine = 0;
    for (const JoinedPart& part : parts) mine += range_of_rank(part.elements, rank(), size(), part.cuts).count;
    return issue(*whole_, "reduce_scatter", in, -1, at, in.spec.elements() - mine, [&](void* stream) {
      whole_->comm.group([&](const auto& add) {
        for_each_scattered(in, out, parts, rank(), size(), [&](View tensor, View own, const RankCuts& cuts) {
          if (tensor.spec.elements() > 0 && even(tensor.spec.elements(), cuts)) {
            add(scatter_even(tensor, own.data, op, stream), "ncclReduceScatter");
          } else {
            scatter_parts(tensor, own, op, cuts, stream, add);
          }
        });
      });
    });
  }

  bool all_gather(View in, View out, const RankCuts& cuts, const CallSite& at) override {
    const std::int64_t n = out.spec.elements();
    if (n == 0) return true;
    return issue(*whole_, "all_gather", out, -1, at, (size() - 1) * in.spec.elements(), [&](void* stream) {
      if (even(n, cuts)) {
        whole_->comm.settle(gather_even(in.data, out, stream), "ncclAllGather");
      } else {
        whole_->comm.group([&](const auto& add) { gather_parts(in, out, cuts, stream, add); });
      }
    });
  }

  bool all_gather(View in, View out, std::span<const JoinedPart> parts, const CallSite& at) override {
    if (out.spec.elements() == 0) return true;
    return issue(*whole_, "all_gather", out, -1, at, (size() - 1) * in.spec.elements(), [&](void* stream) {
      whole_->comm.group([&](const auto& add) {
        for_each_gathered(in, out, parts, rank(), size(), [&](View mine, View tensor, const RankCuts& cuts) {
          if (tensor.spec.elements() > 0 && even(tensor.spec.elements(), cuts)) {
            add(gather_even(mine.data, tensor, stream), "ncclAllGather");
          } else {
            gather_parts(mine, tensor, cuts, stream, add);
          }
        });
      });
    });
  }

  bool send(View x, int peer, const CallSite& at) override {
    if (x.spec.elements() == 0) return true;
    const Channel c = channel(rank(), peer);
    return issue(*c.line, "send", x, peer, at, x.spec.elements(), [&](void* stream) {
      c.line->comm.settle(
          api_->send(x.data, size_of(x.spec.elements()), nccl_type(x.spec.dtype), c.to, c.line->comm.get(), stream),
          "ncclSend");
    });
  }

  bool receive(View x, int peer, const CallSite& at) override {
    if (x.spec.elements() == 0) return true;
    const Channel c = channel(peer, rank());
    return issue(*c.line, "receive", x, peer, at, 0, [&](void* stream) {
      c.line->comm.settle(
          api_->recv(x.data, size_of(x.spec.elements()), nccl_type(x.spec.dtype), c.from, c.line->comm.get(), stream),
          "ncclRecv");
    });
  }

 private:
  // A communicator, which does one call after the other, and what it has been asked.
  struct Line {
    Line(NcclApi& api, const std::string& name, const NcclId& id, int rank, int ranks, std::function<double()> deadline,
         Device& device, int most_blocks)
        : comm(api, name, id, rank, ranks, std::move(deadline), most_blocks), calls(device) {}
    NcclCommunicator comm;
    DeviceCalls calls;
  };
  template <class Visit>
  void for_each_line(const Visit& visit) {
    visit(*whole_);
    for (const auto& pair : pairs_) {
      if (pair) visit(*pair);
    }
  }
  // Where messages between two ranks go, and who these are there.
  struct Channel {
    Line* line;
    int from, to;
  };
  Channel channel(int from, int to) const {
    const auto found = std::find(options_.directions.begin(), options_.directions.end(), std::pair{from, to});
    if (found == options_.directions.end()) return {whole_.get(), from, to};
    return {pairs_[static_cast<std::size_t>(found - options_.directions.begin())].get(), 0, 1};
  }

  // Before NCCL finds out, whose text names neither the axis nor what to do about it.
  void require_own_devices() const {
    std::array<char, 128> mine{};
    std::copy_n(options_.device.begin(), std::min(options_.device.size(), mine.size()), mine.begin());
    std::vector<std::array<char, 128>> all(static_cast<std::size_t>(size()));
    Group(options_.axis, control_).gather_values(mine.data(), std::ssize(mine), all.data());
    for (std::size_t a = 0; a < all.size(); ++a) {
      const auto other = std::find(all.begin() + static_cast<std::ptrdiff_t>(a) + 1, all.end(), all[a]);
      require(
          other == all.end(), ErrorKind::Device,
          "ranks {} and {} of axis {} share the device {}, which NCCL does not allow: give each rank a device of its "
          "own, or say cuda.share: true, and messages go through host memory",
          a, other - all.begin(), options_.axis, options_.device);
    }
  }

  // A communicator whose id comes from `root` of the group; `as`: this rank in it, -1: not in it. `most_blocks`: as
  // NcclCommunicator has it.
  std::unique_ptr<Line> connect(const std::string& name, int root, int as, int ranks, int most_blocks = 0) {
    // The fault goes to all: without an id, the others would wait for the root until their deadline.
    struct {
      NcclId id{};
      int result = kNcclSuccess;
      std::array<char, 512> fault{};
    } made;
    if (rank() == root) {
      made.result = api_->get_unique_id(made.id);
      const std::string fault = made.result == kNcclSuccess ? "" : api_->error_text(made.result, nullptr);
      std::copy_n(fault.begin(), std::min(fault.size(), made.fault.size() - 1), made.fault.begin());
    }
    Group(options_.axis, control_).broadcast({&made, {{sizeof(made)}, DType::u8}}, root);
    require(made.result == kNcclSuccess, ErrorKind::Device, "ncclGetUniqueId over {}, rank {} of {}: {}", name, root,
            size(), made.fault.data());
    if (as < 0) return nullptr;
    return std::make_unique<Line>(
        *api_, name, made.id, as, ranks, [this] { return deadline(); }, device_, most_blocks);
  }
  double deadline() const { return started_ && watch_ ? watch_->watchdog->deadline() : options_.start_s; }

  bool even(std::int64_t n, const RankCuts& cuts) const {
    if (cuts.empty()) return n % size() == 0;
    for (int r = 0; r < size(); ++r) {
      if (range_of_rank(n, r, size(), cuts).count * size() != n) return false;
    }
    return true;
  }

  int gather_even(const void* in, const View& out, void* stream) const {
    return api_->all_gather(in, out.data, size_of(out.spec.elements() / size()), nccl_type(out.spec.dtype),
                            whole_->comm.get(), stream);
  }

  int scatter_even(const View& in, void* out, ReduceOp op, void* stream) const {
    return api_->reduce_scatter(in.data, out, size_of(in.spec.elements() / size()), nccl_type(in.spec.dtype),
                                nccl_op(op), whole_->comm.get(), stream);
  }

  // Inside a group: NCCL has no reduction to unequal parts, so one to each rank.
  template <class Add>
  void scatter_parts(const View& in, const View& out, ReduceOp op, const RankCuts& cuts, void* stream,
                     const Add& add) const {
    for (int r = 0; r < size(); ++r) {
      const ElementRange part = range_of_rank(in.spec.elements(), r, size(), cuts);
      if (part.count == 0) continue;
      add(api_->reduce(element_at(in, part.first), r == rank() ? out.data : nullptr, size_of(part.count),
                       nccl_type(in.spec.dtype), nccl_op(op), r, whole_->comm.get(), stream),
          "ncclReduce");
    }
  }

  // Inside a group: parts of any size, one from each rank. Messages between all pairs would do too, but NCCL connects
  // each pair when it first has one, with memory that no other collective takes.
  template <class Add>
  void gather_parts(const View& in, const View& out, const RankCuts& cuts, void* stream, const Add& add) const {
    for (int r = 0; r < size(); ++r) {
      const ElementRange part = range_of_rank(out.spec.elements(), r, size(), cuts);
      if (part.count == 0) continue;
      void* place = element_at(out, part.first);
      add(api_->broadcast(r == rank() ? in.data : place, place, size_of(part.count), nccl_type(out.spec.dtype), r,
                          whole_->comm.get(), stream),
          "ncclBroadcast");
    }
  }

  // queue(stream) asks NCCL, between the events that poll() looks at. `sent`: elements that messages would have sent.
  template <class Queue>
  bool issue(Line& line, std::string_view op, const View& v, int peer, const CallSite& at, std::int64_t sent,
             const Queue& queue) {
    void* stream = at.stream->native_handle();
    require(stream != nullptr, ErrorKind::Internal, "{} '{}': NCCL needs the stream of a CUDA device", op, at.label);
    const std::lock_guard lock(mutex_);
    line.comm.require_alive();
    if (watch_) line.calls.begin(*at.stream, op, at.label, v.spec.bytes(), peer);
    queue(stream);
    if (watch_) line.calls.end(*at.stream);
    bytes_sent_ += sent * dtype_bytes(v.spec.dtype);
    return true;
  }

  // On the watchdog's thread. A call that waits for NCCL holds the lock, and follows errors itself.
  std::optional<std::string> poll() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return std::nullopt;
    std::optional<std::string> fault;
    for_each_line([&](Line& line) {
      line.calls.poll(watch_.get());
      if (!fault) fault = line.comm.fault();
    });
    return fault;
  }

  std::shared_ptr<NcclApi> api_;
  std::shared_ptr<Transport> control_;
  NcclOptions options_;
  std::shared_ptr<WatchedGroup> watch_;
  Device& device_;
  bool started_ = false;
  std::mutex mutex_;  // of what follows
  std::unique_ptr<Line> whole_;
  std::vector<std::unique_ptr<Line>> pairs_;  // by direction; null: this rank is at neither end
};

}  // namespace

std::vector<std::pair<int, int>> neighbour_directions(int ranks, Towards towards) {
  std::vector<std::pair<int, int>> all;
  for (int r = 0; r < ranks && ranks > 1; ++r) {
    const int next = (r + 1) % ranks;
    all.emplace_back(towards == Towards::Next ? std::pair{r, next} : std::pair{next, r});
  }
  return all;
}

std::shared_ptr<NcclTransport> make_nccl_transport(std::shared_ptr<NcclApi> api, std::shared_ptr<Transport> control,
                                                   Device& device, const NcclOptions& options,
                                                   std::shared_ptr<WatchedGroup> watch) {
  return std::make_shared<NcclTransportOfGroup>(std::move(api), std::move(control), device, options, std::move(watch));
}

}  // namespace plimsoll
