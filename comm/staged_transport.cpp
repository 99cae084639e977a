#include "comm/staged_transport.hpp"

#include <algorithm>
#include <array>

#include "comm/group.hpp"
#include "runtime/device/cpu_stream.hpp"

namespace plimsoll {
namespace {

// Of the sum of a piece: a share of it, or what a piece has of each rank's part.
std::int64_t scratch_bytes(int ranks, std::int64_t piece_bytes) {
  return reduce_scratch_bytes(ranks, piece_bytes / ranks + dtype_bytes(DType::f64));
}

// What one thread sends through: two buffers, which pieces go through in turn, and a thread that copies.
class Lane {
 public:
  Lane(Device& device, std::int64_t piece_bytes)
      : device_(device),
        bytes_(piece_bytes),
        memory_(static_cast<std::byte*>(device.allocate_host(2 * piece_bytes))),
        copier_(make_worker_stream()) {
    for (auto& event : copied_out_) event = make_cpu_event();
  }
  ~Lane() {
    copier_.reset();  // it may be copying
    device_.release_host(memory_, 2 * bytes_);
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // For each piece: out(piece, buffer) copies it from the device, message(piece, buffer) is the collective, and
  // in(piece, buffer) copies the result to the device. While a piece is on its way, the next one is copied out and the
  // one before in.
  template <class Out, class Send, class In>
  void run(std::int64_t pieces, const Out& out, const Send& message, const In& in) {
    // One for each buffer and direction: the next that uses it is launched when this one has run.
    std::array<Copy<Out>, 2> outs{Copy<Out>{this, &out}, Copy<Out>{this, &out}};
    std::array<Copy<In>, 2> ins{Copy<In>{this, &in}, Copy<In>{this, &in}};
    const auto copy_out = [&](std::int64_t piece) {
      const auto slot = static_cast<std::size_t>(piece % 2);
      launch(outs[slot], piece);
      copier_->record(*copied_out_[slot]);
    };
    try {
      if (pieces > 0) copy_out(0);
      for (std::int64_t piece = 0; piece < pieces; ++piece) {
        if (piece + 1 < pieces) copy_out(piece + 1);
        const auto slot = static_cast<std::size_t>(piece % 2);
        copied_out_[slot]->synchronize();
        message(piece, buffer(piece));
        launch(ins[slot], piece);
      }
      copier_->synchronize();
    } catch (...) {
      copier_ = make_worker_stream();  // when the old one has ended, nothing reads `outs` and `ins`
      throw;
    }
  }

 private:
  template <class Body>
  struct Copy {
    Lane* lane;
    const Body* body;
    std::int64_t piece = 0;
  };
  template <class Body>
  void launch(Copy<Body>& copy, std::int64_t piece) {
    copy.piece = piece;
    copier_->launch({[](void* argument) {
                       const auto& c = *static_cast<Copy<Body>*>(argument);
                       (*c.body)(c.piece, c.lane->buffer(c.piece));
                     },
                     &copy});
  }
  std::byte* buffer(std::int64_t piece) const { return memory_ + piece % 2 * bytes_; }

  Device& device_;
  std::int64_t bytes_;
  std::byte* memory_;
  std::unique_ptr<Stream> copier_;
  std::array<std::unique_ptr<Event>, 2> copied_out_;
};

// What pieces of a divided tensor have of each rank's part, one after another in a buffer.
struct DividedPieces {
  std::int64_t elements, piece_elements;  // of the tensor; of each part in a piece, at most
  int ranks;
  const RankCuts& cuts;

  std::int64_t count() const { return (largest_range(elements, ranks, cuts) + piece_elements - 1) / piece_elements; }
  ElementRange of(int rank, std::int64_t piece) const {
    const ElementRange part = range_of_rank(elements, rank, ranks, cuts);
    const std::int64_t skipped = std::min(part.count, piece * piece_elements);
    return {part.first + skipped, std::min(piece_elements, part.count - skipped)};
  }
  // visit(rank, where it is in the tensor, where it is in the buffer)
  template <class Visit>
  void for_each(std::int64_t piece, const Visit& visit) const {
    std::int64_t place = 0;
    for (int r = 0; r < ranks; ++r) {
      const ElementRange range = of(r, piece);
      if (range.count > 0) visit(r, range, place);
      place += range.count;
    }
  }
  void set_cuts(std::int64_t piece, RankCuts& packed) const {
    for (int r = 0; r < ranks; ++r)
      packed[static_cast<std::size_t>(r) + 1] = packed[static_cast<std::size_t>(r)] + of(r, piece).count;
  }
};

class StagedTransport : public Transport, public WholeCollectives {
 public:
  StagedTransport(std::shared_ptr<Transport> below, Device& device, const StagedOptions& options)
      : below_(std::move(below)),
        host_("staged", below_),
        device_(device),
        options_(options),
        lanes_{std::make_unique<Lane>(device, options.piece_bytes),
               std::make_unique<Lane>(device, options.piece_bytes)},
        scratch_(static_cast<std::size_t>(scratch_bytes(host_.size(), options.piece_bytes))),
        packed_(static_cast<std::size_t>(host_.size()) + 1, 0) {}

  int rank() const override { return below_->rank(); }
  int size() const override { return below_->size(); }
  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override {
    below_->start(slot, sends, receives);
  }
  void finish(int slot) override { below_->finish(slot); }
  std::int64_t bytes_sent() const override { return below_->bytes_sent(); }
  WholeCollectives* whole(const CallSite& at) override { return at.stream != nullptr ? this : nullptr; }

  bool all_reduce(View x, ReduceOp op, const CallSite& at) override {
    at.stream->catch_up();
    const std::int64_t element = dtype_bytes(x.spec.dtype);
    const auto piece = [&](std::int64_t p) { return piece_of(x, p); };
    lanes_[0]->run(
        pieces_of(x),
        [&](std::int64_t p, std::byte* to) { device_.copy_to_host(to, piece(p).data, piece(p).spec.bytes()); },
        [&](std::int64_t p, std::byte* buffer) {
          host_.all_reduce({buffer, {{piece(p).spec.bytes() / element}, x.spec.dtype}}, op, scratch_.data());
        },
        [&](std::int64_t p, std::byte* from) { device_.copy_to_device(piece(p).data, from, piece(p).spec.bytes()); });
    return true;
  }

  bool reduce_scatter(View in, View out, ReduceOp op, const RankCuts& cuts, const CallSite& at) override {
    at.stream->catch_up();
    const DividedPieces pieces = divide(in, cuts);
    const std::int64_t element = dtype_bytes(in.spec.dtype);
    const std::int64_t first = range_of_rank(pieces.elements, rank(), size(), cuts).first;
    lanes_[0]->run(
        pieces.count(),
        [&](std::int64_t p, std::byte* to) {
          pieces.for_each(p, [&](int, ElementRange range, std::int64_t place) {
            device_.copy_to_host(to + place * element, element_at(in, range.first), range.count * element);
          });
        },
        [&](std::int64_t p, std::byte* buffer) {
          pieces.set_cuts(p, packed_);
          const View whole{buffer, {{packed_.back()}, in.spec.dtype}};
          host_.reduce_scatter(whole, mine_of(whole), op, scratch_.data(), "", packed_);
        },
        [&](std::int64_t p, std::byte* from) {
          pieces.for_each(p, [&](int r, ElementRange range, std::int64_t place) {
            if (r != rank()) return;
            device_.copy_to_device(element_at(out, range.first - first), from + place * element, range.count * element);
          });
        });
    return true;
  }

  bool all_reduce(View x, ReduceOp op, std::span<const ElementRange> ranges, const CallSite& at) override {
    for (const ElementRange& range : ranges)
      all_reduce({element_at(x, range.first), {{range.count}, x.spec.dtype}}, op, at);
    return true;
  }

  bool reduce_scatter(View in, View out, ReduceOp op, std::span<const JoinedPart> parts, const CallSite& at) override {
    for_each_scattered(in, out, parts, rank(), size(), [&](View tensor, View mine, const RankCuts& cuts) {
      reduce_scatter(tensor, mine, op, cuts, at);
    });
    return true;
  }

  bool all_gather(View in, View out, const RankCuts& cuts, const CallSite& at) override {
    at.stream->catch_up();
    const DividedPieces pieces = divide(out, cuts);
    const std::int64_t element = dtype_bytes(out.spec.dtype);
    const std::int64_t first = range_of_rank(pieces.elements, rank(), size(), cuts).first;
    const View place_of_mine{element_at(out, first), in.spec};
    const bool in_place = place_of_mine.data == in.data;
    const auto copy_mine_out = [&](std::int64_t p, std::byte* to) {
      pieces.for_each(p, [&](int r, ElementRange range, std::int64_t place) {
        if (r != rank()) return;
        device_.copy_to_host(to + place * element, element_at(in, range.first - first), range.count * element);
      });
    };
    const auto copy_in = [&](std::int64_t p, std::byte* from, bool mine, bool others) {
      pieces.for_each(p, [&](int r, ElementRange range, std::int64_t place) {
        if (r == rank() ? mine : others)
          device_.copy_to_device(element_at(out, range.first), from + place * element, range.count * element);
      });
    };
    if (options_.direct) {
      if (!in_place) {
        lanes_[0]->run(
            pieces.count(), copy_mine_out, [](std::int64_t, std::byte*) {},
            [&](std::int64_t p, std::byte* from) { copy_in(p, from, true, false); });
      }
      host_.all_gather(place_of_mine, out, "", cuts);
      return true;
    }
    lanes_[0]->run(
        pieces.count(), copy_mine_out,
        [&](std::int64_t p, std::byte* buffer) {
          pieces.set_cuts(p, packed_);
          const View whole{buffer, {{packed_.back()}, out.spec.dtype}};
          host_.all_gather(mine_of(whole), whole, "", packed_);
        },
        [&](std::int64_t p, std::byte* from) { copy_in(p, from, !in_place, true); });
    return true;
  }

  bool all_gather(View in, View out, std::span<const JoinedPart> parts, const CallSite& at) override {
    for_each_gathered(in, out, parts, rank(), size(),
                      [&](View mine, View tensor, const RankCuts& cuts) { all_gather(mine, tensor, cuts, at); });
    return true;
  }

  bool send(View x, int peer, const CallSite& at) override {
    at.stream->catch_up();
    if (options_.direct) return host_.send(x, peer), true;
    lanes_[0]->run(
        pieces_of(x),
        [&](std::int64_t p, std::byte* to) {
          const View piece = piece_of(x, p);
          device_.copy_to_host(to, piece.data, piece.spec.bytes());
        },
        [&](std::int64_t p, std::byte* from) {
          host_.send({from, piece_of(x, p).spec}, peer);
        },
        [](std::int64_t, std::byte*) {});
    return true;
  }

  bool receive(View x, int peer, const CallSite& at) override {
    at.stream->catch_up();
    if (options_.direct) return host_.receive(x, peer), true;
    lanes_[1]->run(
        pieces_of(x), [](std::int64_t, std::byte*) {},
        [&](std::int64_t p, std::byte* to) {
          host_.receive({to, piece_of(x, p).spec}, peer);
        },
        [&](std::int64_t p, std::byte* from) {
          const View piece = piece_of(x, p);
          device_.copy_to_device(piece.data, from, piece.spec.bytes());
        });
    return true;
  }

 private:
  // Of a tensor that goes through as it is.
  std::int64_t elements_per_piece(const View& v) const { return options_.piece_bytes / dtype_bytes(v.spec.dtype); }
  std::int64_t pieces_of(const View& v) const {
    return (v.spec.elements() + elements_per_piece(v) - 1) / elements_per_piece(v);
  }
  View piece_of(const View& v, std::int64_t piece) const {
    const std::int64_t first = piece * elements_per_piece(v);
    return {element_at(v, first), {{std::min(elements_per_piece(v), v.spec.elements() - first)}, v.spec.dtype}};
  }
  DividedPieces divide(const View& whole, const RankCuts& cuts) const {
    return {whole.spec.elements(), elements_per_piece(whole) / size(), size(), cuts};
  }
  // This rank's part of a piece, by packed_.
  View mine_of(const View& whole) const {
    const ElementRange range = range_of_rank(packed_.back(), rank(), size(), packed_);
    return {element_at(whole, range.first), {{range.count}, whole.spec.dtype}};
  }

  std::shared_ptr<Transport> below_;
  Group host_;
  Device& device_;
  StagedOptions options_;
  // One thread may send while another one receives.
  std::array<std::unique_ptr<Lane>, 2> lanes_;
  std::vector<std::byte> scratch_;
  RankCuts packed_;  // of the piece whose message is on its way
};

}  // namespace

std::int64_t staged_host_bytes(int ranks, const StagedOptions& options) {
  return 4 * options.piece_bytes + scratch_bytes(ranks, options.piece_bytes);
}

std::shared_ptr<Transport> make_staged_transport(std::shared_ptr<Transport> below, Device& device,
                                                 const StagedOptions& options) {
  require(options.piece_bytes >= below->size() * dtype_bytes(DType::f64), ErrorKind::Internal,
          "pieces of {} bytes have no room for an element of each of {} ranks", options.piece_bytes, below->size());
  return std::make_shared<StagedTransport>(std::move(below), device, options);
}

}  // namespace plimsoll
