#pragma once
// One node by itself on a device, with buffers of its own: for what is measured, and for what libraries allocate when
// they are first called.

#include "launch/backend.hpp"
#include "runtime/exec/kernel_table.hpp"
#include "runtime/graph/graph.hpp"

namespace plimsoll {

// Memory of a device for as long as this lives, in parts.
class DeviceBuffer {
 public:
  // Error(OutOfMemory).
  DeviceBuffer(Device& device, std::int64_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  // The next `bytes`, aligned to 64 bytes: what is taken, each rounded up to that, is at most what was asked for.
  std::byte* take(std::int64_t bytes);
  static constexpr std::int64_t rounded(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  Device& device_;
  std::int64_t bytes_, used_ = 0;
  std::byte* base_;
};

// A node of no graph, with all slots of `given` and what they imply; its values are no values of anything.
Node lone_node(OpId op, Attrs attrs, SlotSpecs given, Phase phase = Phase::Forward);
template <class Op>
Node lone_node(typename Op::Attrs attrs, const SlotSpecs& given, Phase phase = Phase::Forward) {
  return lone_node(op_id<Op>, Attrs(std::in_place_index<op_id<Op>>, std::move(attrs)), given, phase);
}

class NodeRunner {
 public:
  // Buffers for all that the node reads and writes, with numbers between 0.05 and 0.45 and small whole ones: no kernel
  // leaves the range of normal numbers for them. `threads`: of the kernel, as declarations count them. Gradients that
  // are added up are added to, as in a micro-batch after the first; who else is in a group of the node counts as
  // nobody. `device`, `stream` and `node` outlive it. Error(OutOfMemory).
  NodeRunner(Device& device, Stream& stream, Kernel kernel, const Node& node, int threads);
  // What such buffers take.
  static std::int64_t bytes(const Node& node, int threads);
  // The kernel of a node; null: there is none.
  static Kernel kernel_of(const KernelTable& kernels, const Node& node);

  NodeRunner(const NodeRunner&) = delete;
  NodeRunner& operator=(const NodeRunner&) = delete;

  void launch();  // on the stream

 private:
  void fill(Device& device, const View& view, std::int64_t ids);

  Stream& stream_;
  Kernel kernel_;
  DeviceBuffer buffer_;
  std::array<View, kMaxSlots> value_, grad_;
  KernelArgs args_;
};

// A product of square matrices in f32, over and over: what ranks do before or beside a collective that is measured, as
// in a step.
class LoneProduct {
 public:
  static constexpr std::int64_t kShort = 256;  // rows of one that takes less than a millisecond
  // Error(OutOfMemory).
  LoneProduct(Backend& backend, Stream& stream, std::int64_t rows);
  void run();  // until it is done

 private:
  Stream& stream_;
  Node node_;
  NodeRunner runner_;
};

}  // namespace plimsoll
