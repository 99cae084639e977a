#include "launch/node_runner.hpp"

#include <algorithm>

namespace plimsoll {
namespace {

// Elements that are made at a time; floating ones repeat after 1024.
constexpr std::int64_t kPiece = std::int64_t{1} << 18;

constexpr std::uint64_t kScatter = 2654435761;

// A variance, a norm or a log-sum-exp may have such a value.
template <class T>
void make_numbers(std::byte* data, std::int64_t first, std::int64_t count) {
  auto* to = reinterpret_cast<T*>(data);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t scattered = static_cast<std::uint64_t>(first + i) * kScatter;
    to[i] = T(static_cast<float>(0.05 + 0.4 * static_cast<double>(scattered & 1023) / 1024));
  }
}

void make_elements(std::byte* data, DType dtype, std::int64_t first, std::int64_t count, std::int64_t ids) {
  switch (dtype) {
    case DType::f32: return make_numbers<float>(data, first, count);
    case DType::f64: return make_numbers<double>(data, first, count);
    case DType::bf16: return make_numbers<bf16>(data, first, count);
    case DType::f16: return make_numbers<f16>(data, first, count);
    case DType::i32: {
      auto* to = reinterpret_cast<std::int32_t*>(data);
      for (std::int64_t i = 0; i < count; ++i)
        to[i] = static_cast<std::int32_t>(static_cast<std::uint64_t>(first + i) * kScatter %
                                          static_cast<std::uint64_t>(ids));
      return;
    }
    default: std::fill_n(data, count * dtype_bytes(dtype), std::byte{0});
  }
}

// Rows of the table that whole numbers choose from.
std::int64_t id_count(const OpInfo& op, const SlotSpecs& specs) {
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    const int slot = static_cast<int>(s);
    if (op.slots[s].role == Role::Param && specs.has(slot)) return std::max<std::int64_t>(1, specs[slot].shape[0]);
  }
  return 1;
}

}  // namespace

DeviceBuffer::DeviceBuffer(Device& device, std::int64_t bytes)
    : device_(device),
      bytes_(std::max<std::int64_t>(bytes, 1)),
      base_(static_cast<std::byte*>(device.allocate(bytes_))) {}

DeviceBuffer::~DeviceBuffer() { device_.release(base_, bytes_); }

std::byte* DeviceBuffer::take(std::int64_t bytes) {
  require(used_ + bytes <= bytes_, ErrorKind::Internal, "{} bytes of a buffer of {}, of which {} are taken", bytes,
          bytes_, used_);
  std::byte* at = base_ + used_;
  used_ += rounded(bytes);
  return at;
}

Node lone_node(OpId op, Attrs attrs, SlotSpecs given, Phase phase) {
  const OpInfo& info = op_info(op);
  Node node;
  node.op = op;
  node.phase = phase;
  node.label = info.name;
  info.infer(attrs, given);
  node.attrs = std::move(attrs);
  node.specs = given;
  constexpr ValueId kSome = 0;
  const bool forward = phase == Phase::Forward;
  for (std::size_t s = 0; s < info.slots.size(); ++s) {
    const Slot& slot = info.slots[s];
    if (!given.has(static_cast<int>(s))) continue;
    if (forward || reads_in(slot.backward, phase)) node.value[s] = kSome;
    const DType dtype = given[static_cast<int>(s)].dtype;
    const bool floating = is_floating(dtype) && !is_fp8(dtype);
    const bool param_here = slot.role == Role::Param && info.splits_backward == (phase == Phase::WeightGrad);
    const bool stat = slot.role == Role::Stat && slot.over >= 0;  // what InputGrad leaves for WeightGrad
    const bool input = slot.role == Role::Input && phase == Phase::InputGrad && slot.same_gradient < 0;
    if (!forward && floating && (slot.role == Role::Output || param_here || stat || input)) node.grad[s] = kSome;
    if (param_here) node.accumulate[s] = Accumulate::AfterFirst;
  }
  return node;
}

Kernel NodeRunner::kernel_of(const KernelTable& kernels, const Node& node) {
  return kernels.find(node.op, node.phase, compute_dtype(op_info(node.op), node.specs));
}

std::int64_t NodeRunner::bytes(const Node& node, int threads) {
  const OpInfo& op = op_info(node.op);
  std::int64_t bytes = DeviceBuffer::rounded(op.workspace_bytes(node.attrs, node.specs, node.phase, threads)) +
                       DeviceBuffer::rounded(sizeof(StepInputs)) + DeviceBuffer::rounded(sizeof(StepOutputs));
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    const TensorSpec& spec = node.specs[static_cast<int>(s)];
    if (node.value[s] != kNoValue) bytes += DeviceBuffer::rounded(spec.bytes());
    if (node.grad[s] != kNoValue) bytes += DeviceBuffer::rounded(gradient_spec(op.slots[s], spec).bytes());
  }
  return bytes;
}

NodeRunner::NodeRunner(Device& device, Stream& stream, const Kernel kernel, const Node& node, int threads)
    : stream_(stream), kernel_(kernel), buffer_(device, bytes(node, threads)) {
  static const Alone alone;  // what the others would add is counted as a collective
  const OpInfo& op = op_info(node.op);
  const std::int64_t ids = id_count(op, node.specs);
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    value_[s].spec = node.specs[static_cast<int>(s)];
    grad_[s].spec = gradient_spec(op.slots[s], value_[s].spec);
    for (View* view :
         {node.value[s] != kNoValue ? &value_[s] : nullptr, node.grad[s] != kNoValue ? &grad_[s] : nullptr}) {
      if (view == nullptr) continue;
      view->data = buffer_.take(view->spec.bytes());
      fill(device, *view, ids);
    }
    if (node.accumulate[s] != Accumulate::Never) args_.accumulate |= 1U << s;
  }
  const std::int64_t workspace = op.workspace_bytes(node.attrs, node.specs, node.phase, threads);
  if (workspace > 0) {
    args_.workspace = buffer_.take(workspace);
    device.fill(args_.workspace, 0, workspace);
  }
  const StepInputs inputs;
  const StepOutputs outputs;
  std::byte* inputs_at = buffer_.take(sizeof(inputs));
  std::byte* outputs_at = buffer_.take(sizeof(outputs));
  device.copy_to_device(inputs_at, &inputs, sizeof(inputs));
  device.copy_to_device(outputs_at, &outputs, sizeof(outputs));
  args_.value = value_.data();
  args_.grad = grad_.data();
  args_.attributes = &node.attrs;
  args_.threads = threads;
  args_.inputs = reinterpret_cast<const StepInputs*>(inputs_at);
  args_.outputs = reinterpret_cast<StepOutputs*>(outputs_at);
  args_.group = &alone;
  args_.stream = &stream;
  args_.label = node.label.c_str();
}

void NodeRunner::fill(Device& device, const View& view, std::int64_t ids) {
  const std::int64_t element = dtype_bytes(view.spec.dtype);
  std::vector<std::byte> host(static_cast<std::size_t>(std::min(kPiece, view.spec.elements()) * element));
  for (std::int64_t first = 0; first < view.spec.elements(); first += kPiece) {
    const std::int64_t count = std::min(kPiece, view.spec.elements() - first);
    if (first == 0 || !is_floating(view.spec.dtype)) make_elements(host.data(), view.spec.dtype, first, count, ids);
    device.copy_to_device(static_cast<std::byte*>(view.data) + first * element, host.data(), count * element);
  }
}

void NodeRunner::launch() {
  stream_.launch({[](void* r) {
                    const auto* runner = static_cast<const NodeRunner*>(r);
                    runner->kernel_(runner->args_);
                  },
                  this});
}

namespace {

Node square_product(std::int64_t rows) {
  SlotSpecs specs;
  for (const int slot : {int{Linear::kX}, int{Linear::kWeight}}) specs.set(slot, {{rows, rows}, DType::f32});
  return lone_node<Linear>({}, specs);
}

}  // namespace

LoneProduct::LoneProduct(Backend& backend, Stream& stream, std::int64_t rows)
    : stream_(stream),
      node_(square_product(rows)),
      runner_(*backend.device, stream, NodeRunner::kernel_of(backend.kernels, node_), node_, backend.threads) {}

void LoneProduct::run() {
  runner_.launch();
  stream_.synchronize();
}

}  // namespace plimsoll
