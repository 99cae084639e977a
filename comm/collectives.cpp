// The collectives over pairwise messages. Cost models: Thakur, Rabenseifner & Gropp 2005, with pairwise exchange: n−1
// messages a rank and phase, each element moved once to its owner and once from it.

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "comm/group.hpp"

namespace plimsoll {
namespace {

constexpr int kMaxRanksOnStack = 64;

// Lists for more messages. A thread keeps those that it made: collectives after the first step allocate nothing.
std::vector<std::vector<Message>>& spare_lists() {
  thread_local std::vector<std::vector<Message>> lists;
  return lists;
}

struct MessageList {
  std::array<Message, kMaxRanksOnStack> small;
  std::vector<Message> large;
  std::size_t count = 0;
  explicit MessageList(std::size_t most) {
    if (most <= small.size()) return;
    if (auto& spare = spare_lists(); !spare.empty()) {
      large = std::move(spare.back());
      spare.pop_back();
    }
    large.resize(most);
  }
  explicit MessageList(int ranks) : MessageList(static_cast<std::size_t>(ranks)) {}
  ~MessageList() {
    if (!large.empty()) spare_lists().push_back(std::move(large));
  }
  MessageList(const MessageList&) = delete;
  MessageList& operator=(const MessageList&) = delete;
  void add(Message m) { (large.empty() ? small[count] : large[count]) = m, ++count; }
  std::span<const Message> list() const { return {large.empty() ? small.data() : large.data(), count}; }
};

// What is reduced at once: the parts of one view, each divided over the ranks by itself.
struct WholeView {
  std::int64_t elements;
  const RankCuts& cuts;
  std::size_t count() const { return 1; }
  // visit(first element, elements, cuts)
  template <class Visit>
  void for_each(const Visit& visit) const {
    visit(std::int64_t{0}, elements, cuts);
  }
};
struct JoinedTensors {
  std::span<const JoinedPart> parts;
  std::size_t count() const { return parts.size(); }
  template <class Visit>
  void for_each(const Visit& visit) const {
    std::int64_t first = 0;
    for (const JoinedPart& part : parts) {
      visit(first, part.elements, part.cuts);
      first += part.elements;
    }
  }
};
struct Ranges {
  std::span<const ElementRange> ranges;
  std::size_t count() const { return ranges.size(); }
  template <class Visit>
  void for_each(const Visit& visit) const {
    for (const ElementRange& range : ranges) visit(range.first, range.count, RankCuts{});
  }
};

// What `rank` has of all parts together.
template <class Parts>
std::int64_t share_of(const Parts& parts, int rank, int ranks) {
  std::int64_t share = 0;
  parts.for_each(
      [&](std::int64_t, std::int64_t n, const RankCuts& cuts) { share += range_of_rank(n, rank, ranks, cuts).count; });
  return share;
}
template <class Parts>
std::int64_t largest_share(const Parts& parts, int ranks) {
  std::int64_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, share_of(parts, r, ranks));
  return most;
}

// A piece of what a rank has, of all parts one after another: visit(first element in the view, first element in the
// share, elements) for each part of which it has some.
template <class Parts, class Visit>
void for_each_segment(const Parts& parts, int rank, int ranks, std::int64_t piece, std::int64_t piece_elements,
                      const Visit& visit) {
  const std::int64_t begin = piece * piece_elements, end = begin + piece_elements;
  std::int64_t before = 0;
  parts.for_each([&](std::int64_t first, std::int64_t n, const RankCuts& cuts) {
    const ElementRange mine = range_of_rank(n, rank, ranks, cuts);
    const std::int64_t from = std::max(begin, before), to = std::min(end, before + mine.count);
    if (from < to) visit(first + mine.first + from - before, from, to - from);
    before += mine.count;
  });
}

// In the order of the caller's stream, where it has one.
void move_bytes(const CallSite& at, void* to, const void* from, std::int64_t bytes) {
  if (to == from || bytes == 0) return;
  if (at.stream != nullptr) return at.stream->copy_bytes(to, from, bytes);
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// NaN wins from either side, unlike in std::max.
template <class T>
T larger(T a, T b) {
  return a > b || a != a ? a : b;  // NOLINT(misc-redundant-expression): how to ask for NaN
}

// What elements are summed in: those of 16 bits in f32, so that a sum is rounded once.
template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, float, T>;

template <class T>
void combine(Wide<T>* __restrict sum, const T* __restrict b, std::int64_t n, ReduceOp op) {
  if (op == ReduceOp::Sum) {
    for (std::int64_t i = 0; i < n; ++i) sum[i] += static_cast<Wide<T>>(b[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) sum[i] = larger(sum[i], static_cast<Wide<T>>(b[i]));
  }
}

// out = contributions combined in rank order. contribution(r) is where rank r's piece lies; `out` may be this rank's.
template <class T, class Where>
void combine_ranks(T* out, std::int64_t n, int size, ReduceOp op, const Where& contribution) {
  // In blocks that stay in the first-level cache: out may alias a contribution that comes late in the order.
  constexpr std::int64_t kBlock = 1024;
  std::array<Wide<T>, kBlock> sum;
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t count = std::min(kBlock, n - first);
    const T* zero = reinterpret_cast<const T*>(contribution(0)) + first;
    for (std::int64_t i = 0; i < count; ++i) sum[static_cast<std::size_t>(i)] = static_cast<Wide<T>>(zero[i]);
    for (int r = 1; r < size; ++r)
      combine<T>(sum.data(), reinterpret_cast<const T*>(contribution(r)) + first, count, op);
    for (std::int64_t i = 0; i < count; ++i) out[first + i] = static_cast<T>(sum[static_cast<std::size_t>(i)]);
  }
}

template <class Where>
void combine_any(DType dtype, void* out, std::int64_t n, int size, ReduceOp op, const Where& contribution) {
  switch (dtype) {
    case DType::f32: return combine_ranks(static_cast<float*>(out), n, size, op, contribution);
    case DType::f64: return combine_ranks(static_cast<double*>(out), n, size, op, contribution);
    case DType::bf16: return combine_ranks(static_cast<bf16*>(out), n, size, op, contribution);
    case DType::f16: return combine_ranks(static_cast<f16*>(out), n, size, op, contribution);
    case DType::i32: return combine_ranks(static_cast<std::int32_t*>(out), n, size, op, contribution);
    case DType::i64: return combine_ranks(static_cast<std::int64_t*>(out), n, size, op, contribution);
    case DType::u8:
    case DType::f8e4m3:
    case DType::f8e5m2: fail(ErrorKind::Internal, "no reduction of {}", dtype_name(dtype));
  }
}

// This rank's share of every part of `in`, reduced, piece by piece of all shares: the next piece travels while one is
// summed. `out`: where they go one after another; null: each to its place in `in`. `scratch`: for shares of
// `scratch_share` elements.
template <class Parts>
void reduce_shares(Transport& t, View in, const Parts& parts, std::byte* out, ReduceOp op, std::byte* scratch,
                   std::int64_t scratch_share) {
  const DType dtype = in.spec.dtype;
  // Before anything is under way: buffers must not go while peers read them.
  require(dtype_bytes(dtype) > 1, ErrorKind::Internal, "no reduction of {}", dtype_name(dtype));
  const int size = t.size(), rank = t.rank();
  const std::int64_t element = dtype_bytes(dtype), piece_elements = kPieceBytes / element;
  const std::int64_t pieces = (largest_share(parts, size) + piece_elements - 1) / piece_elements;
  const std::int64_t mine = share_of(parts, rank, size);
  // A piece lies at the end of its cell, so that the last byte of the scratch is written whatever this rank's share.
  const std::int64_t cell = reduce_cell_bytes(scratch_share * element);
  // Of this rank's share, from an element on, as it came from a peer.
  const auto inbox = [&](std::int64_t piece, int peer, std::int64_t from) {
    const std::int64_t end = std::min(mine, (piece + 1) * piece_elements);
    return scratch + (piece % 2 * (size - 1) + (peer < rank ? peer : peer - 1) + 1) * cell - (end - from) * element;
  };
  const auto start = [&](std::int64_t piece) {
    const std::size_t most = parts.count() * static_cast<std::size_t>(size);
    MessageList sends(most), receives(most);
    for (int step = 1; step < size; ++step) {
      const int to = (rank + step) % size, from = (rank - step + size) % size;
      for_each_segment(parts, to, size, piece, piece_elements,
                       [&](std::int64_t first, std::int64_t, std::int64_t count) {
                         sends.add({to, element_at(in, first), count * element});
                       });
      for_each_segment(parts, rank, size, piece, piece_elements,
                       [&](std::int64_t, std::int64_t at, std::int64_t count) {
                         receives.add({from, inbox(piece, from, at), count * element});
                       });
    }
    t.start(static_cast<int>(piece % 2), sends.list(), receives.list());
  };
  if (pieces > 0) start(0);
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    if (piece + 1 < pieces) start(piece + 1);
    t.finish(static_cast<int>(piece % 2));
    for_each_segment(parts, rank, size, piece, piece_elements,
                     [&](std::int64_t first, std::int64_t at, std::int64_t count) {
                       std::byte* to = out != nullptr ? out + at * element : element_at(in, first);
                       combine_any(dtype, to, count, size, op,
                                   [&](int r) { return r == rank ? element_at(in, first) : inbox(piece, r, at); });
                     });
  }
}

// Every rank's share of `x` to all ranks.
void add_shares(const Transport& t, View x, const RankCuts& cuts, MessageList& sends, MessageList& receives) {
  const int size = t.size(), rank = t.rank();
  const std::int64_t element = dtype_bytes(x.spec.dtype), n = x.spec.elements();
  const ElementRange mine = range_of_rank(n, rank, size, cuts);
  for (int step = 1; step < size; ++step) {
    const int to = (rank + step) % size, from = (rank - step + size) % size;
    const ElementRange theirs = range_of_rank(n, from, size, cuts);
    if (mine.count > 0) sends.add({to, element_at(x, mine.first), mine.count * element});
    if (theirs.count > 0) receives.add({from, element_at(x, theirs.first), theirs.count * element});
  }
}

void gather_shares(Transport& t, View x, const RankCuts& cuts) {
  MessageList sends(t.size()), receives(t.size());
  add_shares(t, x, cuts, sends, receives);
  t.start(0, sends.list(), receives.list());
  t.finish(0);
}

void exchange(Transport& t, std::span<const Message> sends, std::span<const Message> receives) {
  t.start(0, sends, receives);
  t.finish(0);
}

}  // namespace

// Not require(): texts of shapes would be allocated in a step.
void Group::check_parts(const char* what, const View& whole, const View& part, const RankCuts& cuts) const {
  const std::int64_t all = whole.spec.elements(), mine = part.spec.elements();
  const bool fits = cuts.empty() ? all == mine * size()
                                 : std::ssize(cuts) == size() + 1 && cuts.back() == all &&
                                       range_of_rank(all, rank(), size(), cuts).count == mine;
  if (fits) return;
  const std::string part_of_it =
      cuts.empty() ? fmt::format("1/{}", size()) : fmt::format("the part of rank {}", rank());
  fail(ErrorKind::Internal, "{}: {} is not {} of {}", what, to_string(part.spec), part_of_it, to_string(whole.spec));
}

WatchedGroup* Group::watcher(const WholeCollectives* whole) const {
  return whole != nullptr && whole->returns_early() ? nullptr : watch_.get();
}

void Group::all_reduce(View x, ReduceOp op, std::byte* scratch, const CallSite& at) const {
  if (size() == 1) return;
  WholeCollectives* whole = transport_->whole(at);
  const Watchdog::Call call(watcher(whole), "all_reduce", at.label, x.spec.bytes());
  if (whole != nullptr && whole->all_reduce(x, op, at)) return;
  const std::int64_t n = x.spec.elements();
  reduce_shares(*transport_, x, WholeView{n, {}}, nullptr, op, scratch, largest_range(n, size()));
  gather_shares(*transport_, x, {});
}

void Group::all_reduce(View x, ReduceOp op, std::byte* scratch, std::span<const ElementRange> ranges,
                       const CallSite& at) const {
  if (size() == 1) return;
  WholeCollectives* whole = transport_->whole(at);
  const Watchdog::Call call(watcher(whole), "all_reduce", at.label, x.spec.bytes());
  if (whole != nullptr && whole->all_reduce(x, op, ranges, at)) return;
  const Ranges parts{ranges};
  reduce_shares(*transport_, x, parts, nullptr, op, scratch, largest_share(parts, size()));
  const std::size_t most = ranges.size() * static_cast<std::size_t>(size());
  MessageList sends(most), receives(most);
  for (const ElementRange& range : ranges)
    add_shares(*transport_, {element_at(x, range.first), {{range.count}, x.spec.dtype}}, {}, sends, receives);
  exchange(*transport_, sends.list(), receives.list());
}

void Group::reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, const CallSite& at,
                           const RankCuts& cuts) const {
  check_parts("reduce_scatter", in, out, cuts);
  WholeCollectives* whole = transport_->whole(at);
  if (size() == 1 && whole == nullptr) return move_bytes(at, out.data, in.data, in.spec.bytes());
  const Watchdog::Call call(watcher(whole), "reduce_scatter", at.label, in.spec.bytes());
  if (whole != nullptr && whole->reduce_scatter(in, out, op, cuts, at)) return;
  reduce_shares(*transport_, in, WholeView{in.spec.elements(), cuts}, static_cast<std::byte*>(out.data), op, scratch,
                out.spec.elements());
}

void Group::reduce_scatter(View in, View out, ReduceOp op, std::byte* scratch, std::span<const JoinedPart> parts,
                           const CallSite& at) const {
  check_joined("reduce_scatter", in, out ? &out : nullptr, parts);
  WholeCollectives* whole = transport_->whole(at);
  if (size() == 1 && whole == nullptr) {
    for_each_scattered(in, out, parts, rank(), size(), [&](View tensor, View mine, const RankCuts&) {
      move_bytes(at, mine.data, tensor.data, tensor.spec.bytes());
    });
    return;
  }
  const Watchdog::Call call(watcher(whole), "reduce_scatter", at.label, in.spec.bytes());
  if (whole != nullptr && whole->reduce_scatter(in, out, op, parts, at)) return;
  const JoinedTensors tensors{parts};
  reduce_shares(*transport_, in, tensors, static_cast<std::byte*>(out.data), op, scratch,
                share_of(tensors, rank(), size()));
}

void Group::all_gather(View in, View out, const CallSite& at, const RankCuts& cuts) const {
  check_parts("all_gather", out, in, cuts);
  WholeCollectives* whole = transport_->whole(at);
  const Watchdog::Call call(watcher(whole), "all_gather", at.label, out.spec.bytes());
  if (whole != nullptr && whole->all_gather(in, out, cuts, at)) return;
  const ElementRange mine = range_of_rank(out.spec.elements(), rank(), size(), cuts);
  move_bytes(at, element_at(out, mine.first), in.data, in.spec.bytes());
  if (size() > 1) gather_shares(*transport_, out, cuts);
}

// `mine`: null where this rank's parts lie in their places.
void Group::check_joined(const char* what, const View& whole, const View* mine,
                         std::span<const JoinedPart> parts) const {
  std::int64_t all = 0;
  for (const JoinedPart& part : parts) all += part.elements;
  const std::int64_t share = share_of(JoinedTensors{parts}, rank(), size());
  if (all == whole.spec.elements() && (mine == nullptr || share == mine->spec.elements())) return;
  fail(ErrorKind::Internal, "{}: {} parts are not those of {} and {}", what, parts.size(), to_string(whole.spec),
       mine == nullptr ? "its own" : to_string(mine->spec));
}

void Group::all_gather(View in, View out, std::span<const JoinedPart> parts, const CallSite& at) const {
  check_joined("all_gather", out, &in, parts);
  WholeCollectives* whole = transport_->whole(at);
  const Watchdog::Call call(watcher(whole), "all_gather", at.label, out.spec.bytes());
  if (whole != nullptr && whole->all_gather(in, out, parts, at)) return;
  for_each_gathered(in, out, parts, rank(), size(), [&](View mine, View tensor, const RankCuts& cuts) {
    const ElementRange range = range_of_rank(tensor.spec.elements(), rank(), size(), cuts);
    move_bytes(at, element_at(tensor, range.first), mine.data, mine.spec.bytes());
  });
  if (size() == 1) return;
  // As many at a time as lists of messages have room for without being allocated.
  const auto together = static_cast<std::size_t>(std::max(1, kMaxRanksOnStack / size()));
  std::int64_t all = 0;  // elements of the parts before
  for (std::size_t p = 0; p < parts.size();) {
    MessageList sends(size()), receives(size());
    const std::size_t end = std::min(parts.size(), p + together);
    for (; p < end; all += parts[p++].elements)
      add_shares(*transport_, {element_at(out, all), {{parts[p].elements}, in.spec.dtype}}, parts[p].cuts, sends,
                 receives);
    exchange(*transport_, sends.list(), receives.list());
  }
}

void Group::broadcast(View x, int root) const {
  const Watchdog::Call call(watch_.get(), "broadcast", "", x.spec.bytes());
  MessageList sends(size()), receives(1);
  for (int peer = 0; peer < size() && rank() == root; ++peer) {
    if (peer != root) sends.add({peer, x.data, x.spec.bytes()});
  }
  if (rank() != root) receives.add({root, x.data, x.spec.bytes()});
  exchange(*transport_, sends.list(), receives.list());
}

void Group::send(View x, int peer, const CallSite& at, const std::atomic<bool>* awaited) const {
  WholeCollectives* whole = transport_->whole(at);
  const Watchdog::Call call(watcher(whole), "send", at.label, x.spec.bytes(), peer, awaited);
  if (whole != nullptr && whole->send(x, peer, at)) return;
  const Message m{peer, x.data, x.spec.bytes()};
  exchange(*transport_, {&m, 1}, {});
}

void Group::receive(View x, int peer, const CallSite& at, const std::atomic<bool>* awaited) const {
  WholeCollectives* whole = transport_->whole(at);
  const Watchdog::Call call(watcher(whole), "receive", at.label, x.spec.bytes(), peer, awaited);
  if (whole != nullptr && whole->receive(x, peer, at)) return;
  const Message m{peer, x.data, x.spec.bytes()};
  transport_->start(1, {}, {&m, 1});
  transport_->finish(1);
}

void Group::barrier() const { sum(0); }

void Group::gather_values(const void* mine, std::int64_t bytes, void* all) const {
  const View in{const_cast<void*>(mine), {{bytes}, DType::u8}};
  all_gather(in, {all, {{bytes * size()}, DType::u8}});
}

double Group::sum(double value) const {
  std::vector<double> all(static_cast<std::size_t>(size()));
  gather_values(&value, sizeof(value), all.data());
  double total = 0;
  for (const double v : all) total += v;
  return total;
}

double Group::max(double value) const {
  std::vector<double> all(static_cast<std::size_t>(size()));
  gather_values(&value, sizeof(value), all.data());
  double most = all[0];
  for (const double v : all) most = larger(most, v);
  return most;
}

}  // namespace plimsoll
